"""The comparison of results finds the last bit, a pixel, a value and a file, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.compared_results import compare_outputs
from tests.same_results import describe


def write_manifest(folder: Path, **changes) -> None:
    manifest = {"key": folder.name, "versions": {"torch": "2"}, "images": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def write_metrics(root: Path, mean: float, **changes) -> None:
    metrics = {"latest": {"tags": {"val": {"map": mean, **changes}}}, "runs": []}
    (root / "metrics.json").write_text(json.dumps(metrics))


def write_results(root: Path, tags: str, masks: list[str], **changes) -> Path:
    """Writes tags and two rounds of masks by these keys."""
    (folder := root / "val/tags" / tags).mkdir(parents=True)
    scores = np.array([[0.1, -0.0], [np.nan, 1]], np.float32)
    np.savez(folder / "scores.npz", ids=np.array(["0", "1"]), scores=scores)
    (folder / "tags.txt").write_text("0 1\n1 0\n")
    write_manifest(folder, **changes)
    for number, key in enumerate(masks):
        (folder := root / "val/masks" / key / ".probability").mkdir(parents=True)
        for path in (folder / "0.png", folder.parent / "0.png", folder.parent / "1.png"):
            Image.fromarray(np.full((3, 4), number, np.uint8)).save(path)
        write_manifest(folder.parent)
    (root / "val/masks/latest").symlink_to(key)
    write_metrics(root, 0.75, key=tags)
    return root


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_results(tmp_path / "base", "1a", ["2b", "3c"])


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The same results under other keys, computed at another time by another machine."""
    return write_results(tmp_path / "new", "9f", ["8e", "7d"], host="x", versions={"torch": "3"})


def test_results_under_other_keys_are_equal(base, new):
    found = compare_outputs(base, new)
    assert not found.differences
    counts = {"scores": 1, "tags": 1, "masks": 4, "probabilities": 2, "manifests": 3, "metrics": 1}
    assert found.equal == counts
    text, same = describe("chain", found, {})
    assert same and text.count("\n") == 0 and "4 masks" in text


def test_what_differs_is_named(base, new):
    path = new / "val/tags/9f/scores.npz"
    arrays = dict(np.load(path))
    arrays["scores"][0, 0] = np.nextafter(arrays["scores"][0, 0], np.float32(1))
    np.savez(path, **arrays)
    (new / "val/tags/9f/tags.txt").write_text("0 1\n1 2\n")
    pixels = np.zeros((3, 4), np.uint8)
    pixels[1, 2] = 255
    Image.fromarray(pixels).save(new / "val/masks/8e/0.png")
    (new / "val/masks/8e/1.png").write_bytes(b"no image")
    write_manifest(new / "val/masks/7d", images=2.0, left_out=[])
    (new / "val/masks/7d/.probability/0.png").unlink()
    (new / "val/masks/7d/2.png").write_bytes(b"")
    write_metrics(new, 0.7500000000000001)
    found = compare_outputs(base, new)
    text, same = describe("chain", found, {})
    assert not same and "8 differ" in text and "val/masks (2)/2.png: new" in text
    assert found.differences.pop("val/masks/1.png")[0].startswith("cannot be read: ")
    assert found.differences == {
        "val/tags/scores.npz": ["scores: 1 of 4 values, largest difference 7.45e-09"],
        "val/tags/tags.txt": ["line 2: '1 0' became '1 2'"],
        "val/masks/0.png": ["pixels: 1 of 12 values, largest difference 255"],
        "val/masks (2)/manifest.json": ["images: 2 became 2.0", "left_out: new"],
        "val/masks (2)/.probability/0.png": ["missing"],
        "val/masks (2)/2.png": ["new"],
        "metrics.json": ["latest.tags.val.map: 0.75 became 0.7500000000000001"],
    }


def test_weights_are_compared_as_tensors(base, new):
    torch = pytest.importorskip("torch")
    for root, weight in ((base, 0.5), (new, 0.5), (new, 1.5)):
        (folder := root / "segmenter/4d").mkdir(parents=True, exist_ok=True)
        write_manifest(folder)
        state = {"layer": torch.tensor([0.5, weight])}
        torch.save({"state_dict": state, "meta": {"time": root.name}}, folder / "iter_3.pth")
        found = compare_outputs(base, new).differences.get("segmenter/iter_3.pth")
        changed = ["layer: 1 of 2 values, largest difference 1"]
        assert found == (None if weight == 0.5 else changed)


def test_folders_that_are_missing_new_or_no_longer_the_latest(base, new):
    shutil.move(new / "val/tags/9f", new / "train/tags/9f")
    (new / "val/masks/latest").unlink()
    (new / "val/masks/latest").symlink_to("8e")
    other = ["points to another folder"]
    missing = {"val/tags/": ["missing"], "train/tags/9f/": ["new"]}
    latest = {"val/masks/latest": other, "val/masks (2)/latest": other}
    assert compare_outputs(base, new).differences == missing | latest


def test_a_difference_on_purpose_is_told_with_its_reason(base, new):
    write_manifest(new / "val/masks/8e", left_out=0)
    known = {r"^chain/.*/manifest\.json: left_out: new$": "manifests count what is left out"}
    found = compare_outputs(base, new)
    text, same = describe("chain", found, known)
    assert same and "on purpose (1): manifests count what is left out" in text
    assert not describe("alpha", found, known)[1] and not describe("chain", found, {})[1]
