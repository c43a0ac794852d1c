"""``masks=ground_truth``: a network that is trained on the ground truth, beside one that is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline import Labeller
from pipeline.errors import UserError
from pipeline.files.label_images import read_labels
from tests.datasets import miniatures
from tests.small_runs import TINY_SEGMENTER

GROUND_TRUTH = "masks=ground_truth"


@pytest.fixture
def truth(photographs, tmp_path):
    """The folder of the ground truth: image k shows class k."""
    folder = tmp_path / "truth"
    for index, path in enumerate(sorted(photographs.rglob("*.*"))):
        with Image.open(path) as image:
            labels = np.zeros((image.height, image.width), np.uint8)
        labels[20:50, 10:60] = 1 + index % 4
        target = (folder / path.relative_to(photographs)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(target)
    return folder


@pytest.fixture
def run(run_stage, arguments, truth):
    def run(*more):
        return run_stage(*arguments, f"dataset.masks={truth}", *more)

    return run


def metrics(tmp_path):
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_the_masks_are_the_ground_truth_and_an_edit_costs_one(run, truth, tmp_path):
    finished = run(GROUND_TRUTH, "stage=[masks,evaluate]")
    assert finished.code == 0 and finished.counts["masks"] == (5, 0, 0), finished.errors
    assert "nothing was measured, since the masks are the ground truth" in finished.errors
    assert metrics(tmp_path) == {"latest": {}, "runs": []}
    folder = tmp_path / "out" / "all" / "masks" / "latest"
    for path in truth.rglob("*.png"):
        found = read_labels(folder / path.relative_to(truth))
        np.testing.assert_array_equal(found, read_labels(path))

    labels = np.full_like(read_labels(truth / "a.png"), 3)
    Image.fromarray(labels).save(truth / "a.png")
    assert run(GROUND_TRUTH, "stage=masks").counts["masks"] == (1, 4, 0)
    np.testing.assert_array_equal(read_labels(folder / "a.png"), labels)
    page = run(GROUND_TRUTH, "stage=report")
    assert page.code == 0 and "mask, the ground truth" in (tmp_path / "out/report.html").read_text()

    Image.fromarray(labels[1:]).save(truth / "a.png")
    (truth / "b.png").write_bytes(b"damaged")
    (truth / "c.png").unlink()
    finished = run(GROUND_TRUTH, "stage=masks", "runtime.max_failures=2")
    assert finished.code == 0 and "3 left out (1 without an entry)" in finished.output
    for said in (
        "a: its ground truth cannot be used: is of ",
        "b: its ground truth cannot be used",
    ):
        assert f"left out: {said}" in finished.errors
    assert "left out: c: has no ground-truth mask" in finished.errors


@pytest.mark.parametrize("more", ["dry_run=true", "dry_run=false"])
def test_what_is_not_ground_truth_is_refused_before_anything_is_computed(
    more, run, run_stage, arguments, truth, tmp_path
):
    def refused(finished, *said):
        assert finished.code == 2 and finished.errors.count("\n") == 1, finished.errors
        assert all(part in finished.errors for part in said), finished.errors
        assert not [*tmp_path.glob("out/*/tags")]

    given = GROUND_TRUTH, "stage=[tags,masks]", more
    refused(run_stage(*arguments, *given), "0 of 5 images of split all have masks", "dataset.masks")
    for setting in ("masks.corrections=x", "masks.confidence=0.5"):
        refused(run(*given, setting), f"does not take {setting.partition('=')[0]}: leave it out")
    for name in "abc":
        (truth / f"{name}.png").unlink()
    refused(run(*given), "2 of 5 images of split all have masks, fewer than half")
    root = miniatures.build_voc2007(tmp_path)
    voc = ["dataset=voc2007", f"dataset.root={root}", f"output_dir={tmp_path / 'out'}"]
    refused(run_stage(*voc, *arguments[3:5], *given), "images of split test have masks, fewer")


def test_one_command_gives_both_networks_and_marks_the_supervised_one(run, run_tool, tmp_path):
    stages = "stage=[tags,cams,masks,train,predict,evaluate,report]"
    finished = run("-m", "masks=argmax,ground_truth", *TINY_SEGMENTER, stages)
    assert finished.code == 0, finished.errors
    assert len([*tmp_path.glob("out/segmenter/[!l]*/iter_2.pth")]) == 2
    measured = {(each["stage"], "supervised" in each) for each in metrics(tmp_path)["runs"]}
    plain = {(stage, False) for stage in ("tags", "cams", "masks", "predictions")}
    assert measured == plain | {("predictions", True)}
    assert "masks" not in metrics(tmp_path)["latest"], "those of the ground truth are not measured"
    marked = "segmenter, trained on the ground truth (supervised)"
    assert marked in finished.output and "segmenter, trained on pseudo masks" in finished.output
    for file in ("tables.md", "report.html"):
        text = (tmp_path / "out" / file).read_text()
        assert marked in text and "pseudo masks |" not in text
    board = run_tool("make_tables.py", tmp_path / "out", "--leaderboard").output
    assert "Left out are 1 result of networks that were trained on the ground truth" in board
    assert "ground_truth" not in board and "argmax" in board


def test_a_labeller_has_no_ground_truth(tiny_checkpoint):
    with pytest.raises(UserError, match="masks=ground_truth reads .*names"):
        Labeller(["cat"], checkpoint=tiny_checkpoint, overrides=[GROUND_TRUTH])
