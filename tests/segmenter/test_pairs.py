import re

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError
from pipeline.segmenter.data import check_pairs
from tests.segmenter.tiny_training import write_pairs


@pytest.fixture
def fresh(tmp_path):
    return write_pairs(tmp_path, 2)


def test_sound_pairs(fresh):
    assert check_pairs(fresh, 2) == {}


def test_masks_without_a_class_are_refused(fresh):
    for pair in fresh:
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(pair.mask)
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(fresh[0].mask)
    with pytest.raises(UserError, match="no mask shows a class"):
        check_pairs(fresh, 2)


def test_every_kind_of_wrong_mask_is_listed_at_once(tmp_path):
    pairs = write_pairs(tmp_path, 5)
    Image.fromarray(np.full((40, 48), 3, np.uint8)).save(pairs[0].mask)  # of two classes
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(pairs[1].mask)
    pairs[2].mask.unlink()
    Image.new("RGB", (48, 40)).save(pairs[3].mask)
    pairs[4].image.unlink()
    assert check_pairs(pairs, 2) == {
        "s/0": "mask has labels [3] outside 0 to 2 and 255",
        "s/1": "mask is 40×48, its image 48×40 pixels",
        "s/2": f"mask {pairs[2].mask} is missing",
        "s/3": f"mask {pairs[3].mask} is a PNG of mode RGB: convert it to a palette or grey PNG"
        " of 8 bits",
        "s/4": f"image {pairs[4].image} is missing",
    }


def test_unreadable_image_does_not_hide_a_wrong_mask(fresh):
    fresh[0].image.write_bytes(b"nothing")
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(fresh[0].mask)
    assert re.search(r"image .* cannot be decoded .*; mask .*\[9\]", check_pairs(fresh, 2)["s/0"])


def test_a_truncated_photograph_is_found_before_the_training(fresh):
    """Its header is intact."""
    Image.open(fresh[0].image).save(fresh[0].image, "JPEG")
    whole = fresh[0].image.read_bytes()
    fresh[0].image.write_bytes(whole[: len(whole) // 2])
    (problem,) = check_pairs(fresh, 2).items()
    assert problem[0] == "s/0" and "truncated" in problem[1]


def test_turned_image(fresh):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 48)).save(fresh[0].image, exif=exif)
    assert "its image 40×48" in check_pairs(fresh[:1], 2)["s/0"]
    assert check_pairs(fresh[:1], 2, ImageReader(apply_exif=True)) == {}


def test_files_above_the_limit_are_listed_before_they_are_decoded(fresh, monkeypatch):
    large = np.zeros((100, 60), np.uint8)
    Image.fromarray(large).save(fresh[0].mask)
    Image.fromarray(large).save(fresh[1].image)
    load = PngImageFile.load
    loaded = []
    monkeypatch.setattr(
        PngImageFile, "load", lambda image: (loaded.append(image.size), load(image))
    )
    above = "60×100 pixels are more than dataset.max_pixels=2000: shrink it, or raise the limit"
    assert check_pairs(fresh, 2, ImageReader(max_pixels=2000)) == {
        "s/0": f"mask {fresh[0].mask} {above}",
        "s/1": f"image {fresh[1].image} {above}",
    }
    assert (60, 100) not in loaded
