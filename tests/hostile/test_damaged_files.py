"""Image files that are torn, damaged, empty, of another kind, or larger than the memory."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from pipeline.errors import ImageError
from pipeline.files.images import decode_image
from tests.hostile.examples import SEEDED
from tests.hostile.files import KINDS, encode, photograph, raw_png, write

MAX_PIXELS = 1_000_000
FILES = {kind: encode(photograph(), kind) for kind in KINDS}


def reason_of(path, **options) -> str:
    """Returns why a file is refused, which must be a readable line."""
    with pytest.raises(ImageError) as error:
        decode_image(path, apply_exif=True, **options)
    reason = str(error.value)
    assert reason.isprintable() and len(reason) > 10 and str(path) not in reason
    return reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_is_refused(kind, root):
    whole = FILES[kind]
    for tenth in range(1, 10):
        path = write(root, "x.jpg", whole[: len(whole) * tenth // 10])
        assert "cannot be decoded" in reason_of(path)
    assert decode_image(write(root, "x.jpg", whole)).shape == (40, 56, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_an_image_or_a_reason(kind, root):
    whole = FILES[kind]
    flips = st.lists(
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=12
    )

    @SEEDED
    @given(flips)
    def flip(changes):
        content = bytearray(whole)
        for position, value in changes:
            content[position] = value
        path = write(root, "x.jpg", content)
        try:
            image = decode_image(path, apply_exif=True, max_pixels=MAX_PIXELS)
        except ImageError:
            reason_of(path, max_pixels=MAX_PIXELS)
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == "uint8"
            assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS

    flip()


def test_files_that_are_not_images_are_refused(root):
    assert "the file is empty" in reason_of(write(root, "x.jpg", b""))
    for content in (
        b"this is no image",
        b"\0" * 100,
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"GIF89a",
    ):
        assert "cannot be decoded" in reason_of(write(root, "x.jpg", content))


def test_no_format_that_starts_programs_is_opened(root, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert "it is not a JPEG, PNG" in reason_of(write(root, "x.jpg", header))
    assert not started


def test_a_bomb_is_refused_before_it_is_decoded(root):
    # There are no pixels in this file: whoever decoded it would say that it is truncated.
    path = write(root, "bomb.png", raw_png(12_000, 9_000, 8, 2))
    reason = reason_of(path, max_pixels=100_000_000)
    assert reason.startswith("12000×9000 pixels are more than dataset.max_pixels=100000000: shrink")
    assert "truncated" in reason_of(path, max_pixels=108_000_000)


@pytest.mark.parametrize("side", [20_000, 60_000, 2**31 - 1])
def test_a_limit_holds_where_none_is_set(root, side):
    path = write(root, "bomb.png", raw_png(side, side, 8, 6))
    tracemalloc.start()
    assert reason_of(path) == "has more than 178956970 pixels: shrink it"
    assert (
        reason_of(path, max_pixels=1000)
        == "has more than dataset.max_pixels=1000 pixels: shrink it"
    )
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_pipes_and_devices_are_not_waited_for(root):
    os.mkfifo(root / "pipe.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "folder.jpg").mkdir()
    for name in ("pipe", "zero", "folder"):
        assert "is not a file but a folder, a pipe or a device" in reason_of(root / f"{name}.jpg")
    (root / "dangling.jpg").symlink_to("nothing")
    (root / "self.jpg").symlink_to("self.jpg")
    assert "is not there" in reason_of(root / "dangling.jpg")
    assert "symbolic links" in reason_of(root / "self.jpg")


def test_damaged_exif_does_not_damage_the_picture(root):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    whole = encode(photograph(), exif=exif)
    begin = whole.index(b"Exif\0\0") + 6

    @SEEDED
    @given(st.binary(min_size=8, max_size=30))
    def damage(noise):
        content = whole[:begin] + noise + whole[begin + len(noise) :]
        image = decode_image(write(root, "x.jpg", content), apply_exif=True)
        assert sorted(image.shape[:2]) == [40, 56]

    damage()
