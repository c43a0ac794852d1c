"""CLIP-ES's files: its scripts can read ours, and the pipeline can read theirs."""

from __future__ import annotations

import pickletools

import numpy as np
import pytest
import torch

from pipeline.cams.cams import Cams, read_cams
from pipeline.cams.clip_es_files import encode_clip_es, read_clip_es
from pipeline.errors import ImageError
from tests.exchange.conftest import SIZES

SIZE = (37, 50)
GRID = (10, 13)


def smooth(seed: int = 0, count: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Returns CAMs resized from a grid, as CLIP-ES's are: K×H×W float16."""
    maps = np.random.default_rng(seed).random((count, 3, 4)).astype(np.float16)
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


def read(path, classes: int = 3) -> Cams:
    return read_clip_es(path, SIZE, GRID, classes)


def save(path, **content):
    np.save(path, content)
    return path


def test_what_the_released_script_writes(tmp_path):
    maps = smooth()
    path = save(tmp_path / "a.npy", keys=torch.tensor([2, 0]).numpy(), attn_highres=maps)
    cams = read(path)
    assert cams.keys.tolist() == [2, 0] and cams.keys.dtype == np.int64
    assert cams.size == SIZE and cams.cams.dtype == np.float16 and cams.cams.shape == (2, *GRID)
    assert np.abs(cams.cams - averaged(maps, *GRID)).max() < 1e-3


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_maps_of_irn_and_tensors(kind, tmp_path):
    maps = smooth().astype(kind)
    strided = torch.rand(2, 10, 13)
    path = save(tmp_path / "a.npy", keys=torch.tensor([0, 1]), cam=strided, high_res=maps)
    assert np.abs(read(path).cams - averaged(maps, *GRID)).max() < 1e-3
    path = save(tmp_path / "b.npy", keys=torch.tensor([0, 1]), cam=strided)
    assert np.array_equal(read(path).cams, strided.numpy().astype(np.float16))  # at a quarter
    path = save(tmp_path / "c.npy", keys=[0, 1], attn_highres=[maps[0], torch.tensor(maps[1])])
    assert np.abs(read(path).cams - averaged(maps, *GRID)).max() < 1e-3


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_older_pickles_and_other_orders_in_memory(protocol, tmp_path):
    import pickle

    maps = np.asfortranarray(smooth().astype(">f4"))
    content = {"keys": np.array([0, 2], np.int32), "attn_highres": maps, "n": np.float64(2)}
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        data = pickle.dumps(np.array(content, dtype=object), protocol)
        file.write(data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    cams = read(path)
    assert cams.keys.tolist() == [0, 2]
    assert np.abs(cams.cams - averaged(maps, *GRID)).max() < 1e-3


@pytest.mark.parametrize("size", [(10, 12), (5, 7), (37, 50)])
def test_maps_of_about_the_images_shape_are_never_refined_and_are_clipped(size, tmp_path):
    maps = np.zeros((2, *size), np.float32)
    maps[0], maps[1] = -0.0009, 1.0009  # by which rounding may leave [0, 1]
    cams = read(save(tmp_path / "a.npy", keys=[0, 1], attn_highres=maps)).cams
    assert cams.shape[1:] == (min(10, size[0]), min(13, size[1]))
    assert (cams[0] == 0).all() and (cams[1] == 1).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"keys": np.array([0, 3]), "attn_highres": smooth()}, "class 3: the classes are 0 to 2"),
        ({"keys": np.array([-1, 0]), "attn_highres": smooth()}, "holds class -1"),
        ({"keys": np.array([1, 1]), "attn_highres": smooth()}, "two CAMs of one class"),
        ({"keys": np.array([0.0, 1.0]), "attn_highres": smooth()}, "not class indices"),
        ({"keys": ["cat"], "attn_highres": smooth(0, 1)}, "not class indices"),
        ({"keys": np.array([0]), "attn_highres": smooth()}, "2 CAMs for 1 classes"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth() + 1}, "where 0 to 1 is expected"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth() - 1}, "where 0 to 1 is expected"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth() * np.nan}, "NaN"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth(size=(50, 37))}, "37×50 for an image"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth(size=(38, 50))}, "50×38 for an image"),
        ({"keys": np.array([0, 1]), "attn_highres": smooth(size=(10, 11))}, "11×10 for an image"),
        (
            {"keys": np.array([0, 1]), "attn_highres": [smooth()[0], smooth(size=(19, 25))[0]]},
            "CAMs of several sizes",
        ),
        ({"keys": np.array([0, 1]), "attn_highres": smooth()[0]}, "not rows and columns"),
        ({"keys": np.array([0, 1]), "attn_highres": 7}, "not rows and columns"),
        ({"keys": np.array([0]), "attn_highres": np.array(0.5)}, "not rows and columns"),
        ({"keys": np.array([0]), "attn_highres": [[[[0.5]]]]}, "not rows and columns"),
        ({"keys": np.array([0, 1]), "attn_highres": np.ones((2, *SIZE), int)}, "not rows and"),
        ({"keys": np.array([0, 1])}, "not hold a dictionary with keys and"),
        ({"attn_highres": smooth()}, "not hold a dictionary with keys and"),
        ([1, 2], "not hold a dictionary with keys and"),
    ],
)
def test_what_is_no_map_of_the_image_is_said(content, reason, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array(content, dtype=object) if isinstance(content, dict) else {1: 2})
    with pytest.raises(ImageError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(ImageError, match="a.npy is missing"):
        read(path)
    for content in (b"", b"noise" * 9, np.random.default_rng(0).bytes(500)):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="damaged, or not a file of CLIP-ES"):
            read(path)
    np.save(path, smooth())
    with pytest.raises(ImageError, match="float16, .*dictionary is expected"):
        read(path)
    save(path, keys=np.array([0, 1]), attn_highres=smooth())
    whole = path.read_bytes()
    for length in range(60, len(whole), 397):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match="damaged"):
            read(path)


def test_exported_maps_are_read_as_clip_es_reads_them(cams, tmp_path, run_tool):
    finished = run_tool("export.py", cams, "--format", "clip_es", "--output", tmp_path / "exported")
    assert finished.code == 0, finished.errors
    assert "1 images have no tag" in finished.errors and "3 cams written" in finished.output
    for image_id, size in SIZES.items():
        ours = read_cams(cams / f"{image_id}.npz")
        # The next lines are those of eval_cam.py.
        cam_dict = np.load(tmp_path / "exported" / f"{image_id}.npy", allow_pickle=True).item()
        maps = cam_dict["attn_highres"]
        assert maps.dtype == np.float16 and maps.shape == (len(ours.keys), *size)
        assert cam_dict["keys"].dtype == np.int64
        assert np.array_equal(maps, ours.resized(*size).astype(np.float16))
        if image_id == "e":
            continue
        bg_score = np.power(1 - np.max(maps, axis=0, keepdims=True), 1)
        maps = np.concatenate((bg_score, maps), axis=0)
        keys = np.pad(cam_dict["keys"] + 1, (1, 0), mode="constant")
        labels = keys[np.argmax(maps, axis=0)].astype(np.uint8)
        assert labels.shape == size and set(np.unique(labels)) <= {0, 1, 3}


def test_exported_maps_come_back(cams, tmp_path):
    for image_id, size in SIZES.items():
        ours, path = read_cams(cams / f"{image_id}.npz"), tmp_path / "a.npy"
        path.write_bytes(encode_clip_es(ours))
        grid = (-(-size[0] // 4), -(-size[1] // 4))
        back = read_clip_es(path, size, grid, 3)
        assert np.array_equal(back.keys, ours.keys) and back.cams.shape == (len(ours.keys), *grid)
        difference = np.abs(back.resized(*size) - ours.resized(*size))
        if len(ours.keys):  # the values are noise, which averages smooth the most
            assert difference.max() < 0.15 and difference.mean() < 0.015


def test_exported_files_name_nothing_that_one_numpy_alone_has():
    data = encode_clip_es(Cams(np.array([1]), np.ones((1, 2, 2), np.float16), (8, 8)))
    pickled = data[data.index(b"\n") + 1 :]
    named = {argument for op, argument, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
