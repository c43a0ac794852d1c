"""Masks of other programs: every kind of PNG gives the same labels, or the reason why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.mask_images import Reading, read_colours
from pipeline.datasets.vocabulary import voc_palette
from pipeline.errors import ImageError, UserError
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from tests.datasets.annotated import CLASSES, reading
from tests.exchange.conftest import draw_labels
from tests.hostile.files import grey_png

KNOWN = {name: label for label, name in enumerate(CLASSES, 1)}
LABELS = draw_labels(7, 40, 56)
COLOURS = {0: (0, 0, 0), 1: (10, 20, 30), 2: (0, 0, 1), 3: (255, 0, 255), IGNORE: (1, 1, 1)}


def paint(palette: dict[int, tuple] | None = None) -> np.ndarray:
    table = np.array(voc_palette(256), np.uint8)
    for label, colour in (palette or {}).items():
        table[label] = colour
    return table[LABELS]


def indexed(palette: list[int]) -> Image.Image:
    image = Image.fromarray(LABELS, "P")
    image.putpalette(palette)
    return image


def refused(path, of: Reading | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        (of or reading()).read_png(path)
    return str(caught.value)


def test_every_form_gives_the_same_labels(tmp_path):
    forms = {
        "our own palette": indexed([c for colour in voc_palette(256) for c in colour]),
        "any palette": indexed(list(np.random.default_rng(0).integers(0, 256, 768))),
        "grey": Image.fromarray(LABELS),
        "sixteen": Image.fromarray(LABELS.astype(np.uint16)),
        "colours": Image.fromarray(paint()),
        "opaque": Image.fromarray(np.dstack([paint(), np.full(LABELS.shape, 255, np.uint8)])),
        "grey and opaque": Image.merge(
            "LA", [Image.fromarray(LABELS), Image.new("L", (56, 40), 255)]
        ),
    }
    for name, image in forms.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(reading().read_png(tmp_path / f"{name}.png"), LABELS), name


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_a_pixel_are_labels_not_shades(depth, tmp_path):
    values = np.random.default_rng(depth).integers(0, min(4, 2**depth), (13, 11)).astype(np.uint8)
    (tmp_path / "grey.png").write_bytes(grey_png(values, depth))
    palette = Image.fromarray(values, "P")
    palette.putpalette([5] * 3 * 2**depth)
    palette.save(tmp_path / "palette.png", bits=depth)
    for name in ("grey", "palette"):
        assert np.array_equal(reading().read_png(tmp_path / f"{name}.png"), values)


TABLES = {
    "CamVid's text": "0 0 0\tbackground\n10 20 30\tcat\n0 0 1 dog\n"
    "255 0 255   Traffic Light\n1 1 1 void",
    "CamVid's table": "name,r,g,b\ncat,10,20,30\ndog,0,0,1\n"
    "traffic light,255,0,255\nignore,1,1,1\n",
    "CVAT's": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:10,20,30::\ndog:0,0,1::\n"
    "traffic light:255,0,255::\nvoid:1,1,1::\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_colours(name, tmp_path):
    table = tmp_path / "colours.txt"
    table.write_text(TABLES[name])
    Image.fromarray(paint(COLOURS)).save(tmp_path / "colours.png")
    flat = [0] * 768
    for label, colour in COLOURS.items():
        flat[3 * label : 3 * label + 3] = colour
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint8)
    image = Image.fromarray(shuffled[LABELS], "P")
    moved = np.zeros((256, 3), np.uint8)
    moved[shuffled] = np.array(flat, np.uint8).reshape(256, 3)
    image.putpalette(moved.ravel().tolist())
    image.save(tmp_path / "palette.png")
    by_table = reading(colours=str(table), palette="colour")
    for file in ("colours", "palette"):
        assert np.array_equal(by_table.read_png(tmp_path / f"{file}.png"), LABELS)


def test_what_cannot_be_read_is_said_with_the_first_pixel(tmp_path):
    foreign, high, alpha = paint(), LABELS.copy(), np.full(LABELS.shape, 255, np.uint8)
    foreign[3:5, 7:10] = (12, 34, 56)
    foreign[39, 55] = (7, 7, 7)
    high[2, 5:9] = 4
    alpha[1, 2] = 0
    Image.fromarray(foreign).save(tmp_path / "colour.png")
    Image.fromarray(high).save(tmp_path / "label.png")
    Image.fromarray(np.dstack([paint(), alpha])).save(tmp_path / "clear.png")
    Image.fromarray(paint()).save(tmp_path / "lossy.jpg")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "label.png").read_bytes()[:90])
    (tmp_path / "gone.png").symlink_to("nothing")
    assert refused(tmp_path / "colour.png") == (
        "holds colour 12 34 56 (6 pixels, the first at x=7, y=3), colour 7 7 7 (1 pixels, the first"
        " at x=55, y=39): no class has it"
    )
    assert refused(tmp_path / "label.png") == (
        "holds label 4 (4 pixels, the first at x=5, y=2), where labels are 0 to 3 and 255"
    )
    assert refused(tmp_path / "clear.png") == (
        "has transparent pixels (1 pixels, the first at x=2, y=1)"
    )
    lossy = "cannot be decoded (it is not a PNG file): replace it"
    assert refused(tmp_path / "lossy.jpg") == lossy
    assert "cannot be decoded (image file is truncated" in refused(tmp_path / "damaged.png")
    assert refused(tmp_path / "gone.png") == "is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no colour"),
        ("10 20 cat", "line 1: 10 20 cat is not a colour and a name"),
        ("10 20 300 cat", "not a colour: give three numbers from 0 to 255"),
        ("1 2 3 cat\n1 2 3 dog", "line 2: .* has another name above"),
        ("background:::\ncat:1,2,3::", "line 1: background::: is not a colour and a name"),
        ("cat:::\ndog:::", "has no colours, and its first name is not background"),
        ("background:::\nbird:::", "line 2: bird is not a class"),
        ("1 2 3 bird", "bird is not a class: add it to the classes, or call it ignore"),
    ],
)
def test_tables_that_cannot_be_used(text, message, tmp_path):
    path = tmp_path / "colours.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_colours(path, KNOWN, "--colours")


def test_values_stand_for_labels(tmp_path):
    shades = np.array([0, 90, 5, 250], np.uint8)[np.where(LABELS == IGNORE, 0, LABELS)]
    Image.fromarray(shades).save(tmp_path / "a.png")
    expected = np.where(LABELS == IGNORE, 0, LABELS)
    assert np.array_equal(reading(values=[90, 5, 250]).read_png(tmp_path / "a.png"), expected)
    fewer = reading(values=[90, 5, 7])
    ignored = np.where(expected == 3, IGNORE, expected)
    assert np.array_equal(fewer.read_png(tmp_path / "a.png"), ignored)
    assert "which the given values do not name" in refused(
        tmp_path / "a.png", replace(fewer, other=None)
    )


def test_our_own_masks_read_by_their_colours_are_the_same_labels(tmp_path):
    """A tool that reads colours would take black pixels of 255 as background."""
    (tmp_path / "a.png").write_bytes(encode_png(LABELS, voc_palette(4)))
    with Image.open(tmp_path / "a.png") as image:
        image.convert("RGB").save(tmp_path / "b.png")
    for name in "ab":
        by_colour = reading(palette="colour").read_png(tmp_path / f"{name}.png")
        assert np.array_equal(by_colour, LABELS)


def test_a_labelmap_without_colours_has_those_of_voc_in_its_order(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nbackground:::\ndog:::\ncat::body,head:run\n")
    black, red, green = voc_palette(3)
    assert read_colours(path, KNOWN, "--colours") == {black: 0, red: 2, green: 1}
