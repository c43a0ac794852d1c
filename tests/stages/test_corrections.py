"""Corrected tags: they come last, cost the corrected images alone, and are named with figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import Labeller
from pipeline.errors import UserError
from tests.small_runs import TINY_SEGMENTER, latest

CLASSES = ("cat", "person", "rocket", "cup")


@pytest.fixture
def run(run_stage, arguments, tmp_path):
    """Runs stages with corrections, if there are any; returns stage → computed, cached, reused."""

    def run(corrections: dict[str, str] | None, *more: str, code: int = 0):
        given = []
        if corrections is not None:
            lines = "".join(f"{i},{names}\r\n" for i, names in corrections.items())
            (tmp_path / "mine.csv").write_text(f"id,classes\r\n{lines}")
            given = [f"tags.corrections={tmp_path / 'mine.csv'}"]
        own = arguments
        if "tags=file" in more:
            own = [each for each in arguments if not each.startswith("tags.")]
        finished = run_stage(*own, *given, *more)
        assert finished.code == code, finished.errors
        run.errors = finished.errors
        return finished.counts

    return run


def tags(out: Path) -> dict[str, list[str]]:
    """Returns the tags of the latest run as people read them."""
    with (latest(out, "tags") / "tags.csv").open(newline="") as file:
        return {row["id"]: row["classes"].split(";") for row in csv.DictReader(file)}


UP_TO_MASKS = "stage=[tags,cams,masks]"


def test_two_corrections_cost_two_images_and_taking_one_back_costs_none(run, tmp_path):
    out = tmp_path / "out"
    assert run(None, UP_TO_MASKS)["tags"] == (5, 0, 0)
    before, first = tags(out), latest(out, "tags").resolve()
    scores = (first / "scores.npz").read_bytes()
    ids = sorted(before)
    wrong = {ids[0]: ";".join({*CLASSES} - {*before[ids[0]]}), ids[1]: ""}
    counts = run(wrong, UP_TO_MASKS)
    assert counts == {"tags": (0, 0, 5), "cams": (2, 0, 3), "masks": (2, 0, 3)}
    after = tags(out)
    assert {*after[ids[0]]} == {*CLASSES} - {*before[ids[0]]} and after[ids[1]] == [""]
    assert all(after[i] == before[i] for i in ids[2:])
    second = latest(out, "tags").resolve()
    assert second != first
    assert (second / "scores.npz").read_bytes() == scores, "mAP cannot move"
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["statistics"]["corrected"] == 2
    [(content, about)] = manifest["legend"].items()
    assert manifest["configuration"]["corrections"] == content
    assert (about["file"], about["images"]) == ("mine.csv", 2)
    # The same content again, then one correction less, then none.
    assert run(wrong, UP_TO_MASKS) == dict.fromkeys(counts, (0, 5, 0))
    (tmp_path / "mine.csv").rename(tmp_path / "renamed.csv")
    again = f"tags.corrections={tmp_path / 'renamed.csv'}"
    assert run(None, UP_TO_MASKS, again) == dict.fromkeys(counts, (0, 5, 0)), "not its name"
    assert run({ids[0]: wrong[ids[0]]}, UP_TO_MASKS) == dict.fromkeys(counts, (0, 0, 5))
    assert tags(out)[ids[1]] == before[ids[1]]
    assert latest(out, "tags").resolve() not in (first, second), "the key holds the content"
    assert len(tags(out)) == 5 and json.loads((second / "manifest.json").read_text()) != manifest
    run({}, UP_TO_MASKS)
    assert latest(out, "tags").resolve() == first


def test_cams_of_the_pass_of_tags_are_those_of_corrected_tags(run, tmp_path):
    run({"a": "cup"}, "stage=[tags,cams]")
    with np.load(latest(tmp_path / "out", "cams") / "a.npz") as stored:
        assert stored["keys"].tolist() == [CLASSES.index("cup")]


def test_a_list_of_tags_can_be_corrected_too(run, tmp_path):
    (tmp_path / "list.txt").write_text("a 0\nb 1 2\nd\n")
    given = ["tags=file", f"tags.path={tmp_path / 'list.txt'}"]
    given += ["runtime.max_failures=0", "stage=tags"]
    run({"b": "cup", "c": "cat;cup"}, *given)
    found = tags(tmp_path / "out")
    assert (found["a"], found["b"], found["c"]) == (["cat"], ["cup"], ["cat", "cup"])
    run({"b": "cup"}, *given)
    found = tags(tmp_path / "out")
    assert found["b"] == ["cup"] and "c" not in found, "its line is in the corrections alone"
    run({}, *given)
    assert tags(tmp_path / "out")["b"] == ["person", "rocket"]


def test_of_several_splits_the_file_or_the_run_says_which(run_stage, tmp_path):
    demo = ["dataset=demo", "tags=ground_truth", "dataset.limit=2", "stage=tags", "dry_run=true"]
    demo += [f"output_dir={tmp_path / 'out'}", f"tags.corrections={tmp_path / 'mine.csv'}"]
    (tmp_path / "mine.csv").write_text("id,classes\n00000,disc\n")
    refused = run_stage(*demo)
    assert refused.code == 2
    assert "has no column split: say of which split its images are" in refused.errors
    assert run_stage(*demo, "dataset.split=val").code == 0
    # Images that the limit leaves out are known.
    (tmp_path / "mine.csv").write_text("id,split,classes\n00100,val,disc\n00000,train,\n")
    assert run_stage(*demo).code == 0
    (tmp_path / "mine.csv").write_text("id,split,classes\n00150,val,disc\n")
    refused = run_stage(*demo)
    assert "names 00150, which split val does not have: did you mean 00" in refused.errors
    (tmp_path / "mine.csv").write_text("id,split,classes\n00000,vall,disc\n")
    assert "names split vall, which is unknown: did you mean val?" in run_stage(*demo).errors


def test_corrections_that_reach_no_image_of_the_run_get_a_note(run):
    said = "mine.csv corrects no image of this run: see dataset.split and dataset.limit"
    run({"d": "cup"}, "stage=tags", "dry_run=true", "dataset.limit=1")
    assert said in run.errors
    run({"d": "cup"}, "stage=tags", "dry_run=true")
    assert said not in run.errors


def test_what_is_learned_is_learned_from_the_scores(run, tmp_path):
    standardised = ["tags.standardise=[class]", "tags.z=0.1", "stage=tags"]
    run(None, *standardised)
    statistics = [*(tmp_path / "out" / "all" / "statistics").glob("*/statistics.npz")]
    before = tags(tmp_path / "out")
    counts = run({"a": "cat;person;rocket;cup"}, *standardised)
    assert counts["tags"] == (0, 0, 5)
    assert [*(tmp_path / "out" / "all" / "statistics").glob("*/statistics.npz")] == statistics
    assert tags(tmp_path / "out") == {**before, "a": [*CLASSES]}


@pytest.mark.parametrize("keep", ["true", "false"])
def test_later_rounds_keep_corrected_tags(keep, run, tmp_path):
    rounds = [*TINY_SEGMENTER, "rounds=2", f"self_training.keep_tags={keep}"]
    corrections = {"a": "cup", "b": ""}
    run(corrections, *rounds, "stage=[tags,cams,masks,train]")
    found, manifest = tags(tmp_path / "out"), latest(tmp_path / "out", "tags") / "manifest.json"
    assert json.loads(manifest.read_text())["configuration"]["method"] == "segmenter"
    assert (found["a"], found["b"]) == (["cup"], [""])
    assert json.loads(manifest.read_text())["statistics"]["corrected"] == 2
    if keep == "true":  # what would be without corrections are the tags of the first round
        first = next(
            m.parent
            for m in (tmp_path / "out/all/tags").glob("[!l]*/manifest.json")
            if json.loads(m.read_text())["configuration"]["method"] == "tagclip"
        )
        later, earlier = (
            {e["id"]: e.get("found") for e in map(json.loads, path.open())}
            for path in (manifest.parent / "entries.jsonl", first / "entries.jsonl")
        )
        assert later == earlier and later["a"] is not None


def test_labels_may_be_corrections(run, tmp_path):
    """Of the images that someone corrected, the labels are known."""
    run({"a": "cup", "b": ""}, "stage=tags")
    run(None, f"dataset.labels={tmp_path / 'mine.csv'}", "stage=[tags,evaluate]")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["latest"]["tags"]["all"]["images"] == 2
    run({"a": "cup", "b": ""}, f"dataset.labels={tmp_path / 'mine.csv'}", "stage=[tags,evaluate]")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    figures = metrics["latest"]["tags"]["all"]
    assert figures["f1"] == 1 and figures["corrections"].startswith(
        "tags of 2 images in mine.csv of 20"
    )
    assert metrics["runs"][-1]["about"]["corrections"] == figures["corrections"]


def test_choices_that_read_no_tags_say_so(run):
    run({"a": "cup"}, "masks=dense", "cams=sclip", "stage=tags", "dry_run=true")
    assert (
        "tags.corrections does not change masks, because masks=dense does not read tags"
        in run.errors
    )


def test_a_labeller_is_given_tags_instead(tiny_checkpoint, tmp_path):
    overrides = [f"tags.corrections={tmp_path / 'mine.csv'}"]
    with pytest.raises(UserError, match=r"give the tags of an image to cams\(\)"):
        Labeller(["cat"], checkpoint=tiny_checkpoint, overrides=overrides)


def test_the_command_of_a_report_tags_images(run, tmp_path):
    run(None, UP_TO_MASKS)
    page = tmp_path / "out" / "report.html"
    for stage, repeated in (
        ("stage=report", "stage=[tags,cams,masks,report]"),
        ("stage=[tags,report]", "stage=[tags,report]"),
    ):
        run({"a": "cup"} if "tags" in stage else None, stage)
        command = page.read_text().partition('<code id="command">')[2].partition("</code>")[0]
        assert repeated in command and command.count("stage=") == 1
        assert command.endswith(" tags.corrections=corrections.csv")
        assert command.count("tags.corrections") == 1


def test_a_changed_file_is_noticed_by_the_stages_after_tags(run, tmp_path):
    network = [*TINY_SEGMENTER, "segmenter.pretrained=none"]
    run({"a": "cup", "b": ""}, *network, "stage=[tags,cams,masks,train]")
    changed = {"a": "cup", "b": "cat"}
    wanted = {"cams": "tags", "masks": "cams", "train": "masks", "predict": "masks"}
    for stage, before in wanted.items():
        run(changed, *network, f"stage={stage}", code=2)
        said = f"no {before} for split all: run python tools/run_stage.py 'stage=[tags,"
        assert said in run.errors, stage
    labels = f"dataset.labels={tmp_path / 'mine.csv'}"
    run(changed, labels, "stage=evaluate", code=2)
    assert "there is nothing to evaluate: run python " in run.errors


def test_a_dry_run_knows_that_changed_tags_are_trained_on_anew(run, run_stage, arguments, tmp_path):
    network = [*TINY_SEGMENTER, "segmenter.pretrained=none", "stage=[tags,cams,masks,train]"]
    run(None, *network)
    run({"a": "cup"}, *network)
    for name, line in (("mine.csv", "b,cup\n"), ("other.csv", "a,cup\n")):
        (tmp_path / name).write_text(f"id,classes\n{line}")
        given = [*network, f"tags.corrections={tmp_path / name}"]
        planned = run_stage(*arguments, *given, "dry_run=true")
        assert planned.code == 0, planned.errors
        (row,) = [line for line in planned.output.splitlines() if line.startswith("│ segmenter")]
        assert ("after masks" in row) == (name == "mine.csv"), "other.csv says what mine.csv said"
        finished = run_stage(*arguments, *given)
        assert finished.code == 0 and "segmenter all              5 images, " in finished.output


def test_a_status_tells_which_results_are_corrected(run, run_stage, tmp_path):
    run(None, UP_TO_MASKS)
    run({"a": "cup;cat"}, UP_TO_MASKS)
    status = run_stage("stage=status", f"output_dir={tmp_path / 'out'}")
    assert "corrections=tags of 1 image in mine.csv of 20" in status.output.replace("\n", "")


def test_damaged_statistics_count_as_damage(run, tmp_path):
    run(None, UP_TO_MASKS)
    for statistics in ({"near_synonyms": [5]}, {"flat": "x"}, {"background": None}, 5):
        for path in (tmp_path / "out" / "all").glob("*/*/manifest.json"):
            manifest = json.loads(path.read_text())
            path.write_text(json.dumps({**manifest, "statistics": statistics}))
        assert run(None, UP_TO_MASKS)["masks"] == (0, 5, 0), statistics


def test_a_header_with_quotes_is_one(run, tmp_path):
    (tmp_path / "labels.csv").write_text('"id","classes"\n"a","cup"\n')
    run(None, "stage=[tags,evaluate]", f"dataset.labels={tmp_path / 'labels.csv'}")
    assert json.loads((tmp_path / "out/metrics.json").read_text())["latest"]["tags"]["all"][
        "images"
    ]
