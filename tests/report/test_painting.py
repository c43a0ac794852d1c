"""Labels over photographs, with a legend."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.images import encode_png
from pipeline.report.page.painting import drawing_colours, overlay

NAMES = ("background", "cat", "a cup")
PALETTE = [(0, 0, 0), (200, 0, 0), (0, 0, 200)]


def labelled(height=600, width=800):
    labels = np.zeros((height, width), np.uint8)
    labels[100:300, 100:300] = 1
    labels[350:500, 400:700] = 2
    return labels


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def test_regions_are_tinted_and_the_background_is_left_alone():
    picture = overlay(grey(600, 800), labelled(), NAMES, PALETTE, 0.5).astype(int)
    assert picture.dtype == int and picture.shape[1:] == (800, 3) and picture.shape[0] > 600
    assert np.abs(picture[200, 200] - (164, 64, 64)).max() <= 1
    assert np.abs(picture[420, 550] - (64, 64, 164)).max() <= 1
    assert (picture[50, 50] == 128).all() and (picture[590, 10] == 128).all()


def test_edges_have_an_opaque_line_and_a_white_one_outside():
    picture = overlay(grey(600, 800), labelled(), NAMES, PALETTE, 0.5)
    assert tuple(picture[200, 100]) == (200, 0, 0)
    assert tuple(picture[200, 99]) == (255, 255, 255)
    assert tuple(picture[200, 90]) == (128, 128, 128)


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_opacity_goes_from_the_photograph_to_the_colour(opacity):
    picture = overlay(grey(600, 800), labelled(), NAMES, PALETTE, opacity)
    assert tuple(picture[200, 200]) == ((200, 0, 0) if opacity else (128, 128, 128))


def test_the_legend_lies_below_and_names_what_is_there_alone():
    full = overlay(grey(600, 800), labelled(), NAMES, PALETTE)
    legend = full[600:]
    assert (legend == (200, 0, 0)).all(2).any() and (legend == (0, 0, 200)).all(2).any()
    single = overlay(grey(600, 800), np.ones((600, 800), np.uint8), NAMES, PALETTE)[600:]
    assert (single == (200, 0, 0)).all(2).any() and not (single == (0, 0, 200)).all(2).any()
    assert (single < 60).any(), "a name is written"


def test_a_grey_label_stands_out_on_a_grey_photograph():
    labels = np.full((600, 800), 7, np.uint8)
    labels[:, 400:] = 0
    names = ("background", *"abcdefg")
    picture = overlay(grey(600, 800), labels, names, voc_palette(8)).astype(int)
    assert np.ptp(picture[300, 200]) > 60 and (picture[300, 600] == 128).all()
    (drawn,) = drawing_colours(voc_palette(8))[7:]
    assert (picture[600:] == drawn).all(2).any(), "the legend has the colour of the regions"
    assert drawing_colours(voc_palette(7)) == voc_palette(7)
    stored = Image.open(io.BytesIO(encode_png(labels, voc_palette(8))))
    assert stored.getpalette()[21:24] == [128, 128, 128], "masks keep the colours of VOC"


def test_the_largest_comes_first_and_the_background_last():
    legend = overlay(grey(600, 800), labelled(), NAMES, PALETTE)[600:]
    columns = [np.flatnonzero((legend == colour).all(2).any(0)).min() for colour in PALETTE[:0:-1]]
    assert columns == sorted(columns), "a cup covers more than a cat"


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (700, 20), (20, 700)])
def test_small_and_narrow_photographs_get_room(shape):
    labels = np.ones(shape, np.uint8)
    picture = overlay(grey(*shape), labels, NAMES, PALETTE)
    factor = -(-480 // max(shape)) if max(shape) < 480 else 1
    assert picture.shape[0] > shape[0] * factor and picture.shape[1] >= shape[1] * factor
    assert picture.dtype == np.uint8


def test_labels_of_another_size_are_resized():
    whole = overlay(grey(600, 800), labelled(), NAMES, PALETTE)
    coarse = overlay(grey(600, 800), labelled()[::2, ::2], NAMES, PALETTE)
    assert coarse.shape == whole.shape
    assert (coarse == whole).all(2)[:600].mean() > 0.98


def test_letters_and_legends_of_many_classes():
    names = ["background", *(f"Käse {k} ж" for k in range(1, 200))]
    palette = [(k, 255 - k, k // 2) for k in range(200)]
    labels = np.tile(np.arange(200, dtype=np.uint8), (600, 4))
    picture = overlay(grey(600, 800), labels, names, palette)
    assert picture.shape[1] == 800 and picture.shape[0] > 1500


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="labels"):
        overlay(grey(9, 9), np.full((9, 9), 3, np.uint8), NAMES, PALETTE)
    with pytest.raises(ValueError, match="colours"):
        overlay(grey(9, 9), np.zeros((9, 9), np.uint8), NAMES, PALETTE[:2])
