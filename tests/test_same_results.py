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

METRICS = {"latest": {"tags": {"val": {"key": "old", "map": 0.75, "seconds": 3}}}, "runs": []}


def write_manifest(folder: Path, **changes) -> None:
    manifest = {
        "key": folder.name,
        "seconds": 1.5,
        "versions": {"torch": "2"},
        "configuration": {"alpha": 0.5, "names": [["disc"], ["square"]], "recipe": folder.name},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Tags, a round of masks and another, as the code before had them."""
    root = tmp_path / "base"
    tags = root / "val/tags/1a"
    tags.mkdir(parents=True)
    scores = np.array([[0.1, -0.0], [np.nan, 1]], np.float32)
    np.savez(tags / "scores.npz", ids=np.array(["0", "1"]), scores=scores)
    (tags / "tags.txt").write_text("0 1\n1 0\n")
    write_manifest(tags)
    for number, name in enumerate(("2b", "3c")):
        masks = root / f"val/masks/{name}"
        (masks / ".probability").mkdir(parents=True)
        for image in "01":
            Image.fromarray(np.full((3, 4), number, np.uint8)).save(masks / f"{image}.png")
            Image.fromarray(np.full((3, 4), 200, np.uint8)).save(
                masks / f".probability/{image}.png"
            )
        write_manifest(masks, images=2)
    (root / "val/masks/latest").symlink_to("3c")
    (root / "metrics.json").write_text(json.dumps(METRICS))
    return root


@pytest.fixture
def new(base: Path) -> Path:
    """The same results under other keys, computed at another time, and written in another order."""
    root = base.with_name("new")
    shutil.copytree(base, root, symlinks=True)
    (root / "val/tags/1a").rename(root / "val/tags/9f")
    write_manifest(root / "val/tags/9f", seconds=9, host="other", versions={"torch": "3"})
    for old, name in (("3c", "8e"), ("2b", "7d")):
        (root / f"val/masks/{old}").rename(root / f"val/masks/{name}")
        write_manifest(root / f"val/masks/{name}", images=2)
    (root / "val/masks/latest").unlink()
    (root / "val/masks/latest").symlink_to("8e")
    (root / "metrics.json").write_text(json.dumps(METRICS).replace("old", "new"))
    return root


def differences(base: Path, new: Path) -> dict[str, list[str]]:
    return compare_outputs(base, new).differences


def test_results_under_other_keys_are_equal(base, new):
    found = compare_outputs(base, new)
    assert not found.differences
    counts = {"scores": 1, "tags": 1, "masks": 4, "probabilities": 4, "manifests": 3, "metrics": 1}
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
    Image.fromarray(pixels).save(new / "val/masks/7d/0.png")
    write_manifest(new / "val/masks/8e", images=3)
    (new / "val/masks/8e/.probability/1.png").unlink()
    (new / "val/masks/8e/2.png").write_bytes(b"")
    (new / "metrics.json").write_text(json.dumps(METRICS).replace("0.75", "0.7500000000000001"))
    assert differences(base, new) == {
        "val/tags/scores.npz": ["scores: 1 of 4 values, largest difference 7.45e-09"],
        "val/tags/tags.txt": ["line 2: '1 0' became '1 2'"],
        "val/masks/0.png": ["pixels: 1 of 12 values, largest difference 255"],
        "val/masks (2)/manifest.json": ["images: 2 became 3"],
        "val/masks (2)/.probability/1.png": ["missing"],
        "val/masks (2)/2.png": ["new"],
        "metrics.json": ["latest.tags.val.map: 0.75 became 0.7500000000000001"],
    }
    text, same = describe("chain", compare_outputs(base, new), {})
    assert not same and "7 differ" in text and "val/masks (2)/2.png: new" in text


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"images": 2.0}, "images: 2 became 2.0"),
        ({"images": [2]}, "images: missing; images.0: new"),
        ({"left_out": []}, "left_out: new"),
        ({"configuration": {}}, "configuration: new; configuration.alpha: missing; "),
    ],
)
def test_values_of_manifests(base, new, change, found):
    write_manifest(new / "val/masks/7d", **{"images": 2} | change)
    (parts,) = differences(base, new).values()
    assert "; ".join(parts).startswith(found)


def test_weights_are_compared_as_tensors(base, new):
    torch = pytest.importorskip("torch")

    def save(root: Path, weights: list[float]) -> None:
        (folder := root / "segmenter/4d").mkdir(parents=True, exist_ok=True)
        write_manifest(folder)
        meta, layer = {"time": root.name}, torch.tensor(weights)
        torch.save({"state_dict": {"layer": layer}, "meta": meta}, folder / "iter_3.pth")

    save(base, [0.5, 0.5])
    save(new, [0.5, 0.5])
    found = compare_outputs(base, new)
    assert not found.differences and found.equal["weights"] == 1
    save(new, [0.5, 1.5])
    what = "layer: 1 of 2 values, largest difference 1"
    assert differences(base, new) == {"segmenter/iter_3.pth": [what]}


def test_folders_and_files_that_are_missing_new_damaged_or_no_longer_the_latest(base, new):
    shutil.move(new / "val/tags/9f", new / "train/tags/9f")
    (new / "val/masks/latest").unlink()
    (new / "val/masks/latest").symlink_to("7d")
    (new / "val/masks/7d/0.png").write_bytes(b"no image")
    found, other = differences(base, new), "points to another folder"
    assert found.pop("val/masks/0.png")[0].startswith("cannot be read: ")
    assert found == {
        "val/tags/": ["missing"],
        "train/tags/9f/": ["new"],
        "val/masks/latest": [other],
        "val/masks (2)/latest": [other],
    }


def test_a_difference_on_purpose_is_told_with_its_reason(base, new):
    write_manifest(new / "val/masks/7d", images=2, left_out=0)
    known = {r"^chain/.*/manifest\.json: left_out: new$": "manifests count what is left out"}
    found = compare_outputs(base, new)
    text, same = describe("chain", found, known)
    assert same and "on purpose (1): manifests count what is left out" in text
    assert not describe("alpha", found, known)[1] and not describe("chain", found, {})[1]
