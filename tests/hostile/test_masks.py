"""Invalid ground truth: files that cannot be used are named, and the rest is measured."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.ground_truth import MaskFile, MatlabMask
from pipeline.errors import UserError
from tests.datasets.miniatures import write_labels
from tests.hostile.conftest import assert_one_sentence, failures
from tests.hostile.files import encode, photograph, raw_png, write
from tests.small_runs import latest

HEIGHT, WIDTH = 40, 56


def labels(*values: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Returns stripes of labels."""
    return np.repeat(np.array(values, np.uint8), height // len(values))[:, None].repeat(width, 1)


@pytest.fixture
def masks(root, tmp_path) -> Path:
    """Four photographs with a mask each, in a folder of their own."""
    for seed in range(4):
        write(root, f"whole {seed}.jpg", encode(photograph(seed, HEIGHT, WIDTH)))
        write_labels(tmp_path / "truth" / f"whole {seed}.png", labels(0, 1, 3, 255))
    return tmp_path / "truth"


@pytest.fixture
def add(root, masks):
    """Adds a photograph with whatever is to be its mask."""

    def add_one(name: str, content: bytes | np.ndarray | None) -> None:
        write(root, f"{name}.jpg", encode(photograph(9, HEIGHT, WIDTH)))
        if isinstance(content, np.ndarray):
            write_labels(masks / f"{name}.png", content)
        elif content is not None:
            write(masks, f"{name}.png", content)

    return add_one


@pytest.fixture
def evaluate(run_on, masks):
    def run(*arguments: str):
        stages = "stage=[tags,cams,masks,evaluate]"
        return run_on(stages, f"dataset.masks={masks}", *arguments)

    return run


def figures(out: Path) -> dict[str, dict]:
    """Returns stage → the latest figures."""
    latest_figures = json.loads((out / "metrics.json").read_text())["latest"]
    return {stage: splits["all"] for stage, splits in latest_figures.items()}


def test_broken_masks_are_named_and_the_rest_is_measured(evaluate, add, masks, out):
    assert evaluate().code == 0
    undisturbed = figures(out)
    assert all(figure["left_out"] == 0 for figure in undisturbed.values())
    assert not (out / "failures.jsonl").exists()

    whole = (masks / "whole 0.png").read_bytes()
    broken = {
        "colours": (encode(photograph(), "PNG"), "holds colour "),
        "photograph": (encode(photograph().convert("LA"), "PNG"), "holds label "),
        "foreign": (labels(0, 9), "holds label 9 (1120 pixels, the first at x=0, y=20), where"),
        "torn": (whole[: len(whole) // 2], "cannot be decoded (Truncated File Read): replace it"),
        "empty": (b"", "cannot be decoded (the file is empty): replace it"),
        "jpeg": (encode(photograph().convert("L")), "cannot be decoded (it is not a PNG file)"),
        "bomb": (raw_png(60_000, 60_000, 8, 0), "has more than 178956970 pixels: shrink it"),
    }
    for name, (content, _) in broken.items():
        add(name, content)
    add("small", labels(0, 1, height=20, width=28))
    add("turned", labels(0, 1).T)
    add("piped", None)
    os.mkfifo(masks / "piped.png")
    add("gone", None)
    (masks / "gone.png").symlink_to("nothing")
    add("none", None)  # an image without a mask is one without ground truth, and no mistake

    finished = evaluate("runtime.max_failures=100")
    assert finished.code == 0, finished.errors
    named = failures(out)
    assert named.keys() == {*broken, "small", "turned", "piped", "gone"}
    for name, (_, reason) in broken.items():
        assert f"{name}.png {reason}" in named[name]
    assert named["small"] == (
        "its ground-truth mask has 28×20 pixels and the image 56×40: replace the mask"
    )
    assert "has 40×56 pixels and the image 56×40" in named["turned"]
    assert "is not a file but a folder, a pipe" in named["piped"]
    assert "gone.png is missing" in named["gone"]
    found = figures(out)
    for stage in ("cams", "masks"):
        assert found[stage]["images"] == 4 and found[stage]["left_out"] == len(named)
        # All that can be used were measured, and nothing else was.
        for key in ("miou", "per_class", *(["kept"] if stage == "masks" else [])):
            assert found[stage][key] == undisturbed[stage][key]
    # What a mask of the wrong size shows is still known.
    assert found["tags"]["images"] == 6 and found["tags"]["left_out"] == len(named) - 2

    strict = evaluate()
    assert_one_sentence(
        strict,
        "11 of 15 images of split all cams were left out of evaluate, more than"
        f" runtime.max_failures allows: {out / 'failures.jsonl'} has the reasons",
    )
    assert figures(out) == found, "they are written before the run ends"

    for name in named:
        (masks / f"{name}.png").unlink()
        write_labels(masks / f"{name}.png", labels(0, 1, 3, 255))
    assert evaluate().code == 0
    assert not (out / "failures.jsonl").exists() and figures(out)["masks"]["images"] == 15


def test_without_any_mask_that_can_be_used_there_is_no_figure(evaluate, masks, out):
    for path in masks.iterdir():
        path.write_bytes(b"no mask")
    finished = evaluate()
    assert_one_sentence(finished, "none of the ground truth for tags of split all, cams of split")
    assert f"{out / 'failures.jsonl'} tells what to correct" in finished.errors
    assert len(failures(out)) == 4 and figures(out) == {}


def test_tags_of_broken_masks_are_left_out(run_on, add, masks, out):
    add("torn", (masks / "whole 0.png").read_bytes()[:50])
    add("foreign", labels(0, 9))
    finished = run_on("stage=tags", f"dataset.masks={masks}", "tags=ground_truth")
    assert finished.code == 0, finished.errors
    named = failures(latest(out, "tags"))
    assert named.keys() == {"torn", "foreign"} and "holds label 9" in named["foreign"]


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_other_modes_are_named(mode, tmp_path):
    Image.new(mode, (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=rf"x.png is a PNG of mode {mode}: convert it to a palette"):
        MaskFile(tmp_path / "x.png").read()


def test_foreign_classes_of_sbd_are_named(tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"GTcls": {"Segmentation": labels(0, 9)}})
    mask = MatlabMask(tmp_path / "x.mat", 4)
    with pytest.raises(UserError, match="x.mat holds label 9, .* 4 names"):
        mask.read()
    mask = MatlabMask(tmp_path / "x.mat", 9)
    assert mask.read().max() == 9


def test_report_and_tables_do_without_a_broken_mask_and_say_so(run_on, add, masks, out):
    add("a first one", b"no mask")  # which is one of the report's examples
    finished = run_on("stage=[tags,cams,masks,evaluate,report]", f"dataset.masks={masks}")
    assert finished.code == 0, finished.errors
    assert "1 left out" in (out / "tables.md").read_text() and (out / "examples.png").is_file()
