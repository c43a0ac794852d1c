"""What is shown, compared and evaluated belongs to the results that lie there.

Each test is a story that ended in a wrong figure, or in figures that do not belong together.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.configuration.plugins import import_plugins
from pipeline.engine.records import result_of
from pipeline.engine.results import Results
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.images import encode_png
from tests.report.measured import rows_of
from tests.small_runs import (
    TINY_SEGMENTER,
    Finished,
    draw_photograph,
    folder_options,
    latest,
    replaced,
)

IDS = [str(k) for k in range(6)]
TO_MASKS = "stage=[tags,cams,masks]"
MEASURED = "stage=[tags,cams,masks,evaluate]"
NETWORK = [*TINY_SEGMENTER, "segmenter.pretrained=none"]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Six photographs with masks and a list of tags: cats and cups in turn."""
    for index in range(6):
        pixels = draw_photograph(index, 40, 48)
        pixels[10:30, 10:30, index % 2] = 250
        labels = np.zeros((40, 48), np.uint8)
        labels[10:30, 10:30] = 1 + index % 2
        for name, image in (("photographs", pixels), ("truth", labels)):
            path = tmp_path / name / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_png(image))
    write_list(tmp_path, {i: str(int(i) % 2) for i in IDS})
    return tmp_path


def write_list(world: Path, tags: dict[str, str]) -> None:
    (world / "tags.txt").write_text("".join(f"{i} {classes}\n" for i, classes in tags.items()))


def correct(world: Path, tags: dict[str, str], name: str = "c.csv") -> str:
    """Writes corrections, and returns the setting that names them."""
    with (world / name).open("w", newline="") as file:
        csv.writer(file).writerows([("id", "classes"), *tags.items()])
    return f"tags.corrections={world / name}"


@pytest.fixture
def run(run_stage, world: Path, tiny_checkpoint: Path) -> Callable[..., Finished]:
    """Runs stages on the photographs, unless told otherwise with given tags and CAMs of colours."""
    import_plugins(["tests.plugins.colour_cams", "tests.plugins.colour_tagger"])

    def run(*more: str, out: str = "out", code: int = 0) -> Finished:
        own = f"dataset.masks={world / 'truth'}", "dataset.classes=[cat,cup]", "cams=channel"
        own += "tags=file", f"tags.path={world / 'tags.txt'}", "masks=argmax"
        given = folder_options(world / "photographs", tiny_checkpoint, *own)
        finished = run_stage(*replaced(given, f"output_dir={world / out}", *more))
        assert finished.code == code, finished.errors
        return finished

    return run


@pytest.fixture
def compare(run_tool, world: Path) -> Callable[..., Finished]:
    def compare(*names: str, code: int = 0) -> Finished:
        page = ["--output", world / "comparison.html"]
        finished = run_tool("compare.py", *(world / name for name in names), *page)
        assert finished.code == code, finished.errors
        return finished

    return compare


def figures(out: Path) -> dict[str, dict]:
    """Returns stage → the latest figures."""
    found = json.loads((out / "metrics.json").read_text())["latest"]
    return {stage: splits["all"] for stage, splits in found.items() if splits}


def test_masks_of_old_corrections_are_not_figures_of_new_ones(run, world):
    """Evaluation measured masks of an old file, and named the new one."""
    run(MEASURED, correct(world, {"0": "cup"}))
    edited = correct(world, {"0": ""})
    run("stage=tags", edited)
    finished = run("stage=evaluate", edited)
    assert "no results: cams of split all, masks of split all" in finished.errors
    assert {*figures(world / "out")} == {"tags"}


def test_rows_of_results_that_changed_are_withheld_from_tables(run, run_tool, world):
    run(MEASURED, "experiment_name=study")
    run(MEASURED, "experiment_name=study", "cams.cell_size=8")

    def study() -> Finished:
        return run_tool("make_tables.py", world / "out", "--study", "study")

    assert "cell_size" in study().output and not study().errors
    (world / "truth/0.png").write_bytes((world / "truth/1.png").read_bytes())
    said = "measured before its photographs or ground truth changed: run stage=evaluate"
    assert study().code == 2 and said in study().errors
    run("stage=evaluate", "experiment_name=study", "cams.cell_size=8")
    finished = study()
    assert finished.code == 0 and said in finished.errors and "cell_size" not in finished.output
    for path in (world / "out" / "all").glob("cams/[!l]*"):
        shutil.rmtree(path)
    assert "results removed" in study().output
    board = run_tool("make_tables.py", world / "out", "--leaderboard")
    assert "† results removed" in board.output


def test_a_result_that_was_edited_is_named_by_whoever_reads_it(run, run_tool, compare, world):
    """A mask that was painted over was measured by compare, exported, and shown by no remark."""
    run(MEASURED, out="a")
    run(MEASURED, "cams.cell_size=8", out="b")
    masks, said = latest(world / "b", "masks"), "as they were written for image 3 (edited"
    path = masks / "3.png"
    path.write_bytes((masks / "4.png").read_bytes())
    options = "--images", world / "photographs", "--output"
    for tool in (
        ("export.py", masks, "--format", "voc", *options, world / "voc"),
        ("overlay.py", masks, *options, world / "overlays"),
    ):
        finished = run_tool(*tool)
        assert finished.code == 2 and "left out: 3: masks for split all are not" in finished.errors
        assert said in finished.errors and "left out: 4" not in finished.errors
    assert said in compare("a", "b", code=2).errors
    tables = run_tool("make_tables.py", world / "b", "--leaderboard")
    assert "masks of split all" in tables.errors and "before its results changed" in tables.errors
    assert said in run("stage=evaluate", "cams.cell_size=8", out="b", code=2).errors
    run("stage=report", "cams.cell_size=8", out="b")
    assert said in (world / "b" / "report.html").read_text()


def test_the_run_before_is_not_the_round_before(run, compare, world):
    """Of one run with two rounds, the second was compared with the first."""
    rounds = [*NETWORK, "rounds=2", "stage=[tags,cams,masks,train,predict]"]
    run(*rounds)
    assert "contains no results older than the latest" in compare("out", code=2).errors
    run(*rounds, correct(world, {"0": "cup"}))
    finished = compare("out")
    (row,) = [row for row in rows_of(finished.output, "") if "corrections" in row[0]]
    assert row[1] == "–" and row[2].startswith("tags of 1 image in c.csv of")
    assert "Before and after corrections" in (world / "comparison.html").read_text()


def test_settings_of_every_stage_are_compared(run, compare, world):
    """Masks that need no tags said that no setting differs, where those of tags did."""
    dense = ["cams=sclip", "masks=dense", "masks.short_side=64", "stage=[tags,masks]"]
    run("tags=colour", "tags.min_score=0.1", *dense, out="a")
    run("tags=colour", "tags.min_score=0.9", *dense, out="b")
    finished = compare("a", "b")
    assert rows_of(finished.output, "tags.min_score")[0] == ["tags.min_score", "0.1", "0.9"]
    run(TO_MASKS, out="c")
    write_list(world, dict.fromkeys(IDS, "0 1"))
    run(TO_MASKS, out="d")
    assert "The results do: the runs were given something else" in compare("c", "d").output


def test_manifests_that_name_each_other_end_in_no_circle(run, compare, world):
    run(TO_MASKS, out="a")
    run(TO_MASKS, "cams.cell_size=8", out="b")
    for manifest in (world / "b").glob("all/*/[!l]*/manifest.json"):
        content = json.loads(manifest.read_text())
        names = ("tags", "cams", "masks")
        made_from = {n: ["all", n, latest(world / "b", n).resolve().name] for n in names}
        content["made_from"] = {**made_from, "outside": ["..", "x", "y"]}
        manifest.write_text(json.dumps(content))
    assert compare("a", "b", code=2).errors.startswith("error: ")


def test_nothing_found_is_what_a_later_round_says_was_found(run, world):
    write_list(world, {**{i: str(int(i) % 2) for i in IDS}, "0": ""})
    sees_all = [*NETWORK, "rounds=2", "self_training.tag_threshold=0"]
    run(*sees_all, "stage=[tags,cams,masks,train]", correct(world, {"0": "cup"}))
    lines = (latest(world / "out", "tags") / "entries.jsonl").read_text().splitlines()
    (entry,) = [e for e in map(json.loads, lines) if e["id"] == "0"]
    assert entry["found"] == [] and entry["tags"] == [1]


def test_a_report_shows_no_picture_of_before_a_change(run, world):
    """A photograph that was replaced was shown with the tags of the one before."""
    run("stage=[tags,cams,masks,report]")

    def page() -> str:
        return (world / "out" / "report.html").read_text()

    assert 'id="image-1"' in page() and "made from something else" not in page()
    shown = page().count('class="card"')
    photographs = sorted((world / "photographs").iterdir())
    photographs[0].write_bytes(photographs[1].read_bytes())
    run("stage=report")
    assert page().count('class="card"') == shown - 1
    said = "tags for split all were made from something else than there is now (1 image: its"
    assert f"{said} photograph changed): run stage=" in page()
    run("stage=[tags,cams,masks,report]")
    assert "made from something else" not in page()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"tags": None, "tags.tags": fingerprint([1])}, []),
        ({"tags": None, "tags.tags": fingerprint([0])}, ["tags.tags"]),
        ({"tags": "other"}, ["tags"]),
        ({"tags": None}, ["tags"]),
        ({"segmenter": "other"}, ["segmenter"]),
        ({"photograph": "other"}, []),
    ],
)
def test_folders_tell_which_inputs_are_others_now(given, expected, tmp_path):
    names = ("tags", "segmenter", "masks")
    tags, network, masks = (Results(tmp_path / "all" / name / "key") for name in names)
    tags.entries = {"0": {"id": "0", "tags": [1]}}
    weights = network.path / "best_mIoU_iter_1.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    masks.needs = {"tags": tags, "segmenter": network}
    made_from = {"tags": result_of(tags.entries["0"]), "segmenter": fingerprint_file(weights)}
    inputs = {name: was for name, was in {**made_from, **given}.items() if was is not None}
    assert masks.changed({"id": "0", "inputs": inputs}) == expected
