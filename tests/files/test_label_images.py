"""Label images: PNGs give their stored values, or an error that names the file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.files.images import encode_png
from pipeline.files.label_images import GREY, PALETTE, decode_png, read_labels

LABELS = np.random.default_rng(0).choice([0, 1, 2, 3, 255], (12, 9)).astype(np.uint8)


@pytest.mark.parametrize("palette", [None, [(9, 9, 9)] * 4])
def test_labels_come_back(palette, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(LABELS, palette))
    assert np.array_equal(read_labels(path), LABELS) and read_labels(path).dtype == np.uint8
    png = decode_png(path, (PALETTE, GREY))
    assert (png.palette is None) == (palette is None)
    if palette:
        assert png.palette.shape == (256, 3) and (png.palette[:4] == 9).all()


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError):
        read_labels(path)
    Image.fromarray(LABELS, "P").save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match="a.png cannot be .*: replace it"):
        read_labels(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="a.png is not a file but a folder"):
        read_labels(path)
