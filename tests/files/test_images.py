"""Decoding of image files of all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ImageError, UserError
from pipeline.files.images import decode_image, limit_longest_side, read_size, to_image
from pipeline.files.label_images import decode_png


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def test_the_limit_of_pillow_follows_the_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # of which Pillow refuses twice as many
    path = save(Image.new("L", (100, 90)), tmp_path / "x.png")
    with pytest.raises(ImageError, match="has more than 2000 pixels"):
        decode_image(path)
    with pytest.raises(ImageError, match="dataset.max_pixels=1500 .*shrink"):
        decode_image(path, max_pixels=1500)
    assert Image.MAX_IMAGE_PIXELS == 1000, "it is another program's too, unless a run needs more"
    assert decode_image(path, max_pixels=9000).shape == (90, 100, 3)
    Image.MAX_IMAGE_PIXELS = 1000
    assert decode_png(path, ["L"], max_pixels=9000).values.shape == (90, 100)
    Image.MAX_IMAGE_PIXELS = None
    assert decode_image(path, max_pixels=9000).shape == (90, 100, 3)


def test_the_longest_side_is_limited():
    image = np.zeros((40, 100, 3), np.uint8)
    assert limit_longest_side(image, 50).shape == (20, 50, 3)
    assert limit_longest_side(image, 100) is image
    assert limit_longest_side(image, None) is image
    assert limit_longest_side(np.zeros((1, 4000, 3), np.uint8), 100).shape == (1, 100, 3)


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
RGB = np.dstack([GREY, GREY + 50, GREY + 100])


def test_what_python_holds_becomes_rgb(tmp_path):
    assert to_image(RGB) is RGB
    for grey in (GREY, GREY[:, :, None], Image.fromarray(GREY)):
        assert np.array_equal(to_image(grey), np.dstack([GREY] * 3))
    opaque = np.dstack([RGB, np.full_like(GREY, 255)])
    assert np.array_equal(to_image(opaque), RGB)
    opaque[0, 0, 3] = 0
    assert to_image(opaque)[0, 0].tolist() == [255, 255, 255]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    path = tmp_path / "i.png"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as picture:
        for form in (path, str(path), picture):
            assert np.array_equal(to_image(form), decode_image(path, apply_exif=True))
            assert to_image(form).shape == (4, 3, 3)
    assert read_size(path) == (3, 4) and read_size(path, apply_exif=True) == (4, 3)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (RGB / 255, "3×4×3 float64"),
        (RGB.astype(np.int64), "3×4×3 int64"),
        (GREY > 3, "3×4 bool"),
        (np.zeros((3, 40, 48), np.uint8), "3×40×48 uint8"),
        (RGB[None], "1×3×4×3 uint8"),
        (RGB[:0], "0×4×3 uint8"),
        (GREY[0], "4 uint8"),
        (np.uint8(3) + np.zeros((), np.uint8), "uint8"),
        (torch.from_numpy(RGB), "Tensor"),
        (Image.fromarray(GREY.astype(np.float32)), "Image"),
        (Image.new("RGB", (0, 3)), "Image"),
        (None, "NoneType"),
        ([RGB], "list"),
    ],
)
def test_what_is_not_an_image_is_refused_in_one_sentence(given, what):
    with pytest.raises(UserError, match=f"a uint8 array of H×W.* and this is {what}: conv"):
        to_image(given)


def test_what_cannot_be_decoded_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="none.png is not there: correct"):
        to_image(tmp_path / "none.png")
    path = tmp_path / "i.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with Image.open(path) as picture, pytest.raises(UserError, match="a picture cannot be"):
        to_image(picture)
