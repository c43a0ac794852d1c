"""Imported CAMs: what the stage writes is read, and anything else is refused with a reason."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from pipeline.cams.cam_files import read_cam_file
from pipeline.cams.cams import Cams, encode_cams
from pipeline.clip.dimensions import patch_grid
from pipeline.errors import ImageError

SIZE = (37, 50)
GRID = (10, 13)


def smooth(count: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Returns CAMs resized from a grid, K×H×W float16."""
    maps = np.random.default_rng(0).random((count, 3, 4)).astype(np.float16)
    return Cams(np.arange(count), maps, size).resized(*size).astype(np.float16)


def averaged(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Averages over cells from the floor to the ceiling of their borders, in plain NumPy."""
    _, height, width = maps.shape
    result = np.empty((len(maps), rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            top, bottom = r * height // rows, -(-(r + 1) * height // rows)
            left, right = c * width // columns, -(-(c + 1) * width // columns)
            cell = maps[:, top:bottom, left:right].astype(np.float32)
            result[:, r, c] = cell.mean((1, 2))
    return result


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def read(path, size: tuple[int, int] = SIZE) -> Cams:
    return read_cam_file(path, size, GRID, 3)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_fine_maps_are_averaged_over_the_cells(kind, path):
    maps = np.asfortranarray(smooth().astype(kind))
    np.savez(path, keys=np.array([2, 0], np.int32), cams=maps)
    cams = read(path)
    assert cams.classes.tolist() == [2, 0] and cams.classes.dtype == np.int64
    assert cams.size == SIZE and cams.cams.dtype == np.float16 and cams.cams.shape == (2, *GRID)
    assert np.abs(cams.cams - averaged(maps, *GRID)).max() < 1e-3


@pytest.mark.parametrize("seed", range(40))
def test_what_the_stage_stores_is_read_as_it_is(seed, path):
    """On the grid of any patch size, of an image that was shrunk or enlarged for it."""
    draw = random.Random(seed)
    size = draw.randint(1, 400), draw.randint(1, 400)
    scale = draw.choice([1, draw.uniform(0.2, 3)])
    shown = [max(1, round(side * scale)) for side in size]
    rows, columns = patch_grid(*shown, draw.choice([14, 16, 32]), draw.choice([None, 9, 100]))
    keys = np.array(draw.choice([[], [1], [2, 0]]), np.int64)
    maps = np.random.default_rng(seed).random((len(keys), rows, columns)).astype(np.float16)
    path.write_bytes(encode_cams(Cams(keys, maps, size)))
    found = read_cam_file(path, size, (rows, columns), 3)
    assert found.classes.tolist() == keys.tolist() and found.size == size
    assert found.cams.tobytes() == maps.tobytes() and found.cams.shape == maps.shape


@pytest.mark.parametrize("size", [(10, 12), (5, 7), (37, 50)])
def test_maps_of_about_the_images_shape_are_never_refined_and_are_clipped(size, path):
    maps = np.zeros((2, *size), np.float32)
    maps[0], maps[1] = -0.0009, 1.0009  # by which rounding may leave [0, 1]
    np.savez(path, keys=[0, 1], cams=maps)
    cams = read(path).cams
    assert cams.shape[1:] == (min(10, size[0]), min(13, size[1]))
    assert (cams[0] == 0).all() and (cams[1] == 1).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keys": [0, 3]}, "class 3: the classes are 0 to 2"),
        ({"keys": [-1, 0]}, "holds class -1"),
        ({"keys": [1, 1]}, "two CAMs of one class"),
        ({"keys": [0.0, 1.0]}, "not class indices"),
        ({"keys": ["cat", "cup"]}, "not class indices"),
        ({"keys": [[0, 1]]}, "not class indices"),
        ({"keys": []}, "not class indices"),
        ({"keys": [0]}, "2 CAMs for 1 classes"),
        ({"cams": smooth() + 1}, "where 0 to 1 is expected"),
        ({"cams": smooth() - 1}, "where 0 to 1 is expected"),
        ({"cams": smooth() * np.nan}, "NaN"),
        ({"cams": smooth(size=(50, 37))}, "37×50 for an image of 50×37"),
        ({"cams": smooth(size=(10, 11))}, "11×10 for an image of 50×37"),
        ({"size": [36, 50]}, "an image that does not have 50×37 pixels"),
        ({"size": 37}, "an image that does not have 50×37 pixels"),
        ({"cams": smooth()[0]}, "not rows and columns"),
        ({"cams": 0.5}, "not rows and columns"),
        ({"cams": np.zeros((2, 0, 13))}, "not rows and columns"),
        ({"cams": np.ones((2, *SIZE), int)}, "not rows and columns"),
        ({"cams": None}, "damaged"),  # an array of objects
        ({"cams": np.zeros((9, *SIZE))}, "more than the 109936 bytes"),
    ],
)
def test_what_is_no_map_of_the_image_is_said(changes, reason, path):
    np.savez_compressed(path, **{"keys": [0, 1], "cams": smooth(), "size": SIZE, **changes})
    with pytest.raises(ImageError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none(path):
    with pytest.raises(ImageError, match="a.npz is missing"):
        read(path)
    for content in (b"", b"noise" * 9, np.random.default_rng(0).bytes(500)):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="damaged, or not a file of np.savez"):
            read(path)
    np.savez(path, keys=[0])
    with pytest.raises(ImageError, match="does not hold keys and cams"):
        read(path)
    os.truncate(path, 0)
    path.unlink()
    os.mkfifo(path)  # which is not waited for
    with pytest.raises(ImageError, match="a pipe or a device"):
        read(path)


def test_damaged_files(path):
    np.savez_compressed(path, keys=[0, 1], cams=smooth())
    whole = path.read_bytes()
    for length in range(0, len(whole), 197):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="damaged"):
            read(path)
    begin = whole.index(b"cams.npy") + 20
    path.write_bytes(whole[:begin] + bytes(9) + whole[begin + 9 :])
    with pytest.raises(ImageError, match="damaged"):
        read(path)
