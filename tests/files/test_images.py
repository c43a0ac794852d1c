"""Decoding of image files of all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.files.images import limit_longest_side, load_image


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def test_every_mode_becomes_rgb(tmp_path):
    grey = Image.fromarray(np.full((4, 6), 100, np.uint8))
    loaded = load_image(save(grey, tmp_path / "grey.png"))
    assert loaded.shape == (4, 6, 3) and (loaded == 100).all()

    palette = Image.fromarray(np.full((4, 6, 3), (10, 20, 30), np.uint8)).quantize(4)
    assert load_image(save(palette, tmp_path / "palette.png"))[0, 0].tolist() == [10, 20, 30]

    deep = Image.fromarray(np.full((4, 6), 0x8081, np.uint16))
    assert (load_image(save(deep, tmp_path / "deep.png")) == 0x80).all()

    transparent = Image.fromarray(np.full((4, 6, 4), (200, 0, 0, 0), np.uint8))
    assert (load_image(save(transparent, tmp_path / "alpha.png")) == 255).all()

    cmyk = Image.new("CMYK", (6, 4), (0, 0, 0, 0))
    assert (load_image(save(cmyk, tmp_path / "cmyk.jpg")) > 250).all()


def test_orientation_is_applied_when_asked_for(tmp_path):
    image = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(image, tmp_path / "turned.jpg", exif=exif)
    assert load_image(path).shape == (4, 6, 3)
    assert load_image(path, apply_exif=True).shape == (6, 4, 3)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff"])
def test_a_file_that_is_not_an_image_is_an_image_error(content, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(path)


def test_a_truncated_image_is_an_image_error(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ImageError, match="(?i)truncated"):
        load_image(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = save(Image.new("L", (100, 90)), tmp_path / "x.png")
    assert load_image(path, max_pixels=9000).shape == (90, 100, 3)
    with pytest.raises(ImageError, match="100×90 pixels are more than"):
        load_image(path, max_pixels=8999)


def test_the_longest_side_is_limited():
    image = np.zeros((40, 100, 3), np.uint8)
    assert limit_longest_side(image, 50).shape == (20, 50, 3)
    assert limit_longest_side(image, 100) is image
    assert limit_longest_side(image, None) is image
    assert limit_longest_side(np.zeros((1, 4000, 3), np.uint8), 100).shape == (1, 100, 3)
