"""CAMs in CLIP-ES's files: its scripts can read ours, and the converter takes theirs."""

from __future__ import annotations

import pickletools
import runpy
import sys

import numpy as np
import pytest
import torch

from pipeline.cams.cam_files import read_cam_file
from pipeline.cams.cams import Cams, read_cams
from pipeline.exchange.formats.clip_es import encode_clip_es
from pipeline.files.shipped import CONVERT_CAMS
from tests.exchange.conftest import SIZES


def test_exported_maps_are_read_as_clip_es_reads_them(cams, tmp_path, run_tool):
    finished = run_tool("export.py", cams, "--format", "clip_es", "--output", tmp_path / "exported")
    assert finished.code == 0, finished.errors
    assert "1 images have no tag" in finished.errors and "3 cams written" in finished.output
    for image_id, size in SIZES.items():
        ours = read_cams(cams / f"{image_id}.npz")
        # The next lines are those of eval_cam.py.
        cam_dict = np.load(tmp_path / "exported" / f"{image_id}.npy", allow_pickle=True).item()
        maps = cam_dict["attn_highres"]
        assert maps.dtype == np.float16 and maps.shape == (len(ours.classes), *size)
        assert cam_dict["keys"].dtype == np.int64
        assert np.array_equal(maps, ours.resized(*size).astype(np.float16))
        if image_id == "e":
            continue
        bg_score = np.power(1 - np.max(maps, axis=0, keepdims=True), 1)
        maps = np.concatenate((bg_score, maps), axis=0)
        keys = np.pad(cam_dict["keys"] + 1, (1, 0), mode="constant")
        labels = keys[np.argmax(maps, axis=0)].astype(np.uint8)
        assert labels.shape == size and set(np.unique(labels)) <= {0, 1, 3}


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Converts a folder, and returns what ``cams=file`` reads of an image of 37×50 pixels."""

    def run(image_id: str, size: tuple[int, int] = (37, 50), grid: tuple[int, int] = (10, 13)):
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "npy"), str(tmp_path / "npz")])
        runpy.run_path(str(CONVERT_CAMS))
        return read_cam_file(tmp_path / "npz" / f"{image_id}.npz", size, grid, 3)

    (tmp_path / "npy/b").mkdir(parents=True)
    return run


def test_exported_maps_come_back(cams, convert, tmp_path):
    for image_id, size in SIZES.items():
        ours = read_cams(cams / f"{image_id}.npz")
        (tmp_path / "npy" / f"{image_id}.npy").write_bytes(encode_clip_es(ours))
        grid = (-(-size[0] // 4), -(-size[1] // 4))
        back = convert(image_id, size, grid)
        assert np.array_equal(back.classes, ours.classes)
        assert back.cams.shape == (len(ours.classes), *grid)
        difference = np.abs(back.resized(*size) - ours.resized(*size))
        if len(ours.classes):  # the values are noise, which averages smooth the most
            assert difference.max() < 0.15 and difference.mean() < 0.015


FINE, QUARTER = torch.rand(2, 37, 50), torch.rand(2, 10, 13)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"keys": torch.tensor([2, 0]).numpy(), "attn_highres": FINE.half().numpy()}, FINE),
        ({"keys": torch.tensor([2, 0]), "cam": QUARTER, "high_res": FINE.numpy()}, FINE),
        ({"keys": torch.tensor([2, 0]), "cam": QUARTER}, QUARTER),
        ({"keys": [2, 0], "attn_highres": [FINE[0].numpy(), FINE[1]]}, FINE),
    ],
    ids=["CLIP-ES", "IRN", "a quarter", "lists"],
)
def test_files_of_clip_es_and_irn_are_converted(content, expected, convert, tmp_path):
    np.save(tmp_path / "npy" / "b" / "2007.01.npy", content)
    found = convert("b/2007.01")
    averaged = torch.nn.functional.adaptive_avg_pool2d(expected, (10, 13)).numpy()
    assert found.classes.tolist() == [2, 0] and np.abs(found.cams - averaged).max() < 2e-3


def test_exported_files_name_nothing_that_one_numpy_alone_has():
    data = encode_clip_es(Cams(np.array([1]), np.ones((1, 2, 2), np.float16), (8, 8)))
    pickled = data[data.index(b"\n") + 1 :]
    named = {argument for op, argument, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
