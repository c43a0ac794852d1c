"""All files of cameras, scanners and editors become the RGB that a person sees."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.files.images import decode_image
from tests.hostile.files import deep_png, encode, photograph, png_chunk, write

RED, WHITE = (200, 10, 30), (255, 255, 255)


def left_half_clear(mode: str) -> Image.Image:
    """Returns an image of 4×4 pixels, red or grey 200, whose left half is transparent."""
    image = Image.new("RGBA", (4, 4), (*RED, 255))
    image.paste((*RED, 0), (0, 0, 2, 4))
    return image.convert(mode)


def grey_with_key() -> bytes:
    """Returns a 16-bit grey PNG whose value 0x1234 is transparent; the left half has it."""
    values = np.full((4, 4, 1), 0xC8C8)
    values[:, :2] = 0x1234
    return deep_png(values, 0, png_chunk(b"tRNS", struct.pack(">H", 0x1234)))


def palette_with_key(entries: int) -> bytes:
    """Returns a palette PNG whose first colour, the left half, is transparent."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([1, 2, 3, *RED])
    image.paste(0, (0, 0, 2, 4))
    return encode(image, "PNG", transparency=0 if entries == 1 else bytes([0, 255]))


ALPHA = {
    "RGBA PNG": encode(left_half_clear("RGBA"), "PNG"),
    "RGBA WebP": encode(left_half_clear("RGBA"), "lossless WebP"),
    "palette PNG with a transparent colour": palette_with_key(1),
    "palette PNG with an alpha a colour": palette_with_key(2),
    "RGBA PNG of 16 bits": deep_png(np.asarray(left_half_clear("RGBA")).astype(int) * 257, 6),
}


@pytest.mark.parametrize("kind", ALPHA)
def test_what_is_transparent_is_white(kind, root):
    image = decode_image(write(root, "x.png", ALPHA[kind]))
    assert (image[:, :2] == WHITE).all() and (image[:, 2:] == RED).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha_is_grey_on_white(bits, root):
    grey = left_half_clear("LA")
    value = np.asarray(grey)[0, 0, 0]
    content = encode(grey, "PNG") if bits == 8 else deep_png(np.asarray(grey).astype(int) * 257, 4)
    image = decode_image(write(root, "x.png", content))
    assert (image[:, :2] == 255).all() and (image[:, 2:] == value).all()


def test_one_transparent_value_of_16_bits_is_white(root):
    image = decode_image(write(root, "x.png", grey_with_key()))
    assert (image[:, :2] == 255).all() and (image[:, 2:] == 0xC8).all()


def test_16_bits_are_scaled_and_not_clipped(root):
    ramp = np.linspace(0, 65535, 48).astype(int).reshape(4, 4, 3)
    for channels, colour_type in ((1, 0), (3, 2)):
        values = ramp[:, :, :channels]
        image = decode_image(write(root, "x.png", deep_png(values, colour_type)))
        np.testing.assert_array_equal(image, np.broadcast_to(values >> 8, (4, 4, 3)))


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_jpegs_of_other_colours_are_rgb(mode, root):
    flat = Image.new("RGB", (16, 16), (200, 200, 200) if mode == "L" else RED)
    image = decode_image(write(root, "x.jpg", encode(flat.convert(mode))))
    wanted = np.asarray(flat).astype(int)
    assert np.abs(image.astype(int) - wanted).max() <= 4


@pytest.mark.parametrize("mode", ["1", "P", "L"])
def test_pngs_of_few_colours_are_rgb(mode, root):
    image = photograph().convert(mode)
    loaded = decode_image(write(root, "x.png", encode(image, "PNG")))
    np.testing.assert_array_equal(loaded, np.asarray(image.convert("RGB")))


def test_an_animation_is_its_first_picture(root):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, WHITE)]
    for file_format, options in (("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {})):
        content = encode(
            frames[0], file_format, save_all=True, append_images=frames[1:], duration=40, **options
        )
        for name in ("x.jpg", "x.webp", "x.png"):
            image = decode_image(write(root, name, content))
            assert image.shape == (16, 16, 3) and (image == RED).all()


def test_a_file_is_what_it_holds_and_not_what_it_is_called(root):
    for file_format in ("PNG", "BMP", "TIFF", "lossless WebP"):
        image = decode_image(write(root, "x.jpg", encode(photograph(), file_format)))
        np.testing.assert_array_equal(image, np.asarray(photograph()))
    two = encode(photograph(), "MPO", save_all=True, append_images=[photograph(4)])
    assert decode_image(write(root, "x.jpg", two)).shape == (40, 56, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation, root):
    # What EXIF's table says of where the first row and the first column of the file are seen.
    seen = np.arange(6, dtype=np.uint8).reshape(2, 3)
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.T,
        6: seen.T[::-1],
        7: seen.T[::-1, ::-1],
        8: seen.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored) * 40), "PNG", exif=exif)
    path = write(root, "x.png", content)
    np.testing.assert_array_equal(decode_image(path, apply_exif=True)[:, :, 0], seen * 40)
    np.testing.assert_array_equal(decode_image(path)[:, :, 0], stored * 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_the_thinnest_images_are_images(size, root):
    height, width = size
    for file_format in ("PNG", "JPEG", "WEBP"):
        content = encode(photograph().resize((width, height)), file_format)
        assert decode_image(write(root, "x.jpg", content)).shape == (height, width, 3)
