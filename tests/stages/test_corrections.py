"""Corrected tags and masks: they come last, cost the corrected images alone, and are named."""

from __future__ import annotations

import csv
import json
import re

import pytest

from pipeline import Labeller
from pipeline.errors import UserError
from tests.small_runs import artefacts
from tests.stages.conftest import SIZES, TRAINED, UP_TO_MASKS, E, draw, keep

KINDS = pytest.mark.parametrize("kind", ["tags", "masks"])


@KINDS
def test_two_corrections_cost_two_images_and_taking_one_back_costs_none(kind, runs):
    runs.begin(UP_TO_MASKS)
    before, first, masks = runs.entries(), runs.folder("tags"), runs.folder()
    shown = {"a": [1, 3], E: []}
    counts = runs(UP_TO_MASKS, given := runs.corrected(kind, shown))
    assert counts == {"tags": (0, 0, 5), "cams": (2, 0, 3), "masks": (2, 0, 3)}
    assert runs.entries() == {**before, **shown}
    second = runs.folder("tags")
    assert second != first
    with (second / "tags.csv").open(newline="") as file:  # as people read them
        table = {row["id"]: row["classes"] for row in csv.DictReader(file)}
    assert (table["a"], table[E]) == ("person;cup", "")
    for new, old, names in (
        (second, first, {"scores.npz": True}),  # so that mAP cannot move
        (runs.folder(), masks, {f"{image_id}.png": image_id not in shown for image_id in SIZES}),
    ):
        same = {name: (new / name).read_bytes() == (old / name).read_bytes() for name in names}
        assert same == names
    assert (runs.mask("a") == draw("a", 2, 4)).all() == (kind == "masks")
    manifest = runs.manifest("tags")
    assert manifest["statistics"]["corrected"] == 2
    [(content, about)] = manifest["legend"].items()
    assert manifest["configuration"]["corrections"] == content
    file = "mine.csv" if kind == "tags" else "mine"
    assert (about["what"], about["file"], about["images"]) == ("tags", file, 2)
    # The same content again, under another name, then one correction less, then none.
    assert runs(UP_TO_MASKS, given) == dict.fromkeys(counts, (0, 5, 0))
    renamed = runs.corrected(kind, shown, "renamed")
    assert runs(UP_TO_MASKS, renamed) == dict.fromkeys(counts, (0, 5, 0)), "not its name"
    assert runs.manifest("tags")["legend"][content]["file"].startswith("renamed")
    fewer = runs.corrected(kind, {"a": [1, 3]}, "fewer")
    assert runs(UP_TO_MASKS, fewer) == dict.fromkeys(counts, (0, 0, 5))
    assert runs.entries() == {**before, "a": [1, 3]}
    assert runs.folder("tags") not in (first, second), "the key holds the content"
    runs(UP_TO_MASKS, *([runs.corrected(kind, {})] if kind == "tags" else []))
    assert runs.folder("tags") == first and runs.folder() == masks


@pytest.mark.parametrize("keeps", ["true", "false"])
def test_later_rounds_keep_corrections(keeps, runs):
    """Those of masks, which are corrected tags too."""
    given = runs.corrected("masks", {"a": [1, 3], E: []})
    rounds = [*TRAINED, "rounds=2", f"self_training.keep_tags={keeps}", given]
    runs(*rounds)
    for stage in ("tags", "masks"):
        manifest = runs.manifest(stage)
        assert manifest["configuration"]["method"] == "segmenter"
        assert stage in {about["what"] for about in manifest["legend"].values()}
    tags, found = runs.entries(), runs.entries("found")
    assert (tags["a"], tags[E]) == ([1, 3], [])
    assert runs.manifest("tags")["statistics"]["corrected"] == 2
    assert (runs.mask("a") == draw("a", 2, 4)).all()
    if keeps == "true":  # what would be without corrections are the tags of the first round
        manifests = {p.parent: p.read_text() for p in runs.out.glob("all/tags/[!l]*/manifest.json")}
        [first] = (
            p for p, m in manifests.items() if json.loads(m)["configuration"]["method"] == "tagclip"
        )
        assert found == runs.entries("found", first) and found["a"] is not None
    before = artefacts(runs.out)
    assert all(computed == 0 for computed, *_ in runs(*rounds).values())
    assert artefacts(runs.out) == before
    network = runs.folder("segmenter", "")
    keep(runs.mine, "a", draw("a", 2, 4, margin=12))
    runs(*rounds)
    assert runs.folder("segmenter", "") != network
    assert (runs.mask("a") == draw("a", 2, 4, margin=12)).all()


def test_figures_status_and_report_name_corrections(runs, run_stage, tmp_path):
    """Those of masks, which are corrected tags too."""
    for image_id in SIZES:
        keep(tmp_path / "truth", image_id, draw(image_id, 1))
    given = [runs.corrected("masks", {"a": [1, 3], E: [0]}), f"dataset.masks={tmp_path / 'truth'}"]
    runs.begin(UP_TO_MASKS)
    runs(*given, "stage=[tags,cams,masks,evaluate,report]")
    said = {stage: runs.figures(stage)["corrections"] for stage in ("tags", "masks")}
    for stage, named in said.items():
        assert named.startswith(f"{stage} of 2 images in mine of 20")
    assert ", tags of 2 images in mine of 20" in said["masks"]
    tables = (runs.out / "tables.md").read_text()
    assert re.search("masks.*, corrected by hand", tables)
    assert f"Corrected by hand: {said['masks']}." in tables
    assert f"all: corrected by hand ({said['tags']})." in tables
    status = run_stage("stage=status", f"output_dir={runs.out}").output.replace("\n", "")
    assert "corrections=masks of 2 images in mine" in status
    assert "corrections=tags of 2 images in mine of 20" in status
    assert given[0] in command_of_the_report(runs)


def command_of_the_report(runs) -> str:
    page = (runs.out / "report.html").read_text()
    return page.partition('<code id="command">')[2].partition("</code>")[0]


@KINDS
def test_a_labeller_has_no_split_to_correct(kind, tiny_checkpoint, tmp_path):
    said = rf"{kind}.corrections names images of a split: give the tags of an image to cams\(\)"
    with pytest.raises(UserError, match=said):
        Labeller(["cat"], checkpoint=tiny_checkpoint, overrides=[f"{kind}.corrections={tmp_path}"])


# Tags


def test_a_list_of_tags_can_be_corrected_too(runs, tmp_path):
    (tmp_path / "list.txt").write_text("a 0\nb 1 2\nd\n")
    given = ["tags=file", f"tags.path={tmp_path / 'list.txt'}"]
    given += ["runtime.max_failures=0", "stage=tags"]
    runs(*given, runs.corrected("tags", {"b": [3], "c": [0, 3]}))
    found = runs.entries()
    assert (found["a"], found["b"], found["c"]) == ([0], [3], [0, 3])
    runs(*given, runs.corrected("tags", {"b": [3]}))
    found = runs.entries()
    assert found["b"] == [3] and "c" not in found, "its line is in the corrections alone"
    runs(*given, runs.corrected("tags", {}))
    assert runs.entries()["b"] == [1, 2]


def test_of_several_splits_the_file_or_the_run_says_which(demo, tmp_path):
    mine = tmp_path / "mine.csv"
    given = [f"tags.corrections={mine}", "stage=tags"]
    mine.write_text("id,classes\n00000,disc\n")
    refused = demo(*given)
    assert refused.code == 2
    assert "has no column split: say of which split its images are" in refused.errors
    assert demo(*given, "dataset.split=val").code == 0
    # Images that the limit leaves out are known.
    mine.write_text("id,split,classes\n00100,val,disc\n00000,train,\n")
    assert demo(*given).code == 0
    mine.write_text("id,split,classes\n00150,val,disc\n")
    assert "names 00150, which split val does not have: did you mean 00" in demo(*given).errors
    mine.write_text("id,split,classes\n00000,vall,disc\n")
    assert "names split vall, which is unknown: did you mean val?" in demo(*given).errors


def test_corrections_that_change_nothing_get_a_note(runs):
    given = [runs.corrected("tags", {"d": [3]}), "stage=tags", "dry_run=true"]
    said = "mine.csv corrects no image of this run: see dataset.split and dataset.limit"
    runs(*given, "dataset.limit=1")
    assert said in runs.errors
    runs(*given)
    assert said not in runs.errors
    runs(*given, "masks=dense", "cams=sclip")
    said = "tags.corrections does not change masks, because masks=dense does not read tags"
    assert said in runs.errors


def test_what_is_learned_is_learned_from_the_scores(runs):
    standardised = ["tags.standardise=[class]", "tags.z=0.1", "stage=tags"]
    runs(*standardised)
    statistics = [*runs.out.glob("all/statistics/*/statistics.npz")]
    before = runs.entries()
    counts = runs(*standardised, runs.corrected("tags", {"a": [0, 1, 2, 3]}))
    assert counts["tags"] == (0, 0, 5)
    assert [*runs.out.glob("all/statistics/*/statistics.npz")] == statistics
    assert runs.entries() == {**before, "a": [0, 1, 2, 3]}


def test_labels_may_be_corrections(runs, tmp_path):
    """Of the images that someone corrected, the labels are known."""
    given = runs.corrected("tags", {"a": [3], "b": []})
    labels = f"dataset.labels={tmp_path / 'mine.csv'}"
    runs(labels, "stage=[tags,evaluate]")
    assert runs.figures("tags")["images"] == 2
    runs(given, labels, "stage=[tags,evaluate]")
    figures = runs.figures("tags")
    assert figures["f1"] == 1
    assert figures["corrections"].startswith("tags of 2 images in mine.csv of 20")
    metrics = json.loads((runs.out / "metrics.json").read_text())
    assert metrics["runs"][-1]["about"]["corrections"] == figures["corrections"]


def test_the_command_of_a_report_tags_images(runs):
    runs.begin(UP_TO_MASKS)
    for stage, repeated, given in (
        ("stage=report", "stage=[tags,cams,masks,report]", []),
        ("stage=[tags,report]", "stage=[tags,report]", [runs.corrected("tags", {"a": [3]})]),
    ):
        runs(stage, *given)
        command = command_of_the_report(runs)
        assert repeated in command and command.count("stage=") == 1
        assert command.endswith(" tags.corrections=corrections.csv")
        assert command.count("tags.corrections") == 1


def test_a_changed_file_is_noticed_by_the_stages_after_tags(runs, tmp_path):
    runs(*TRAINED, runs.corrected("tags", {"a": [3], "b": []}))
    changed = runs.corrected("tags", {"a": [3], "b": [0]})
    wanted = {"cams": "tags", "masks": "cams", "train": "masks", "predict": "masks"}
    for stage, before in wanted.items():
        runs(*TRAINED, changed, f"stage={stage}", code=2)
        said = f"no {before} for split all: run stage={before} first: python tools/run_stage.py"
        assert f"{said} 'stage=[tags," in runs.errors, stage
    runs(changed, f"dataset.labels={tmp_path / 'mine.csv'}", "stage=evaluate", code=2)
    assert "there is nothing to evaluate: run stage=tags first: python " in runs.errors


def test_a_dry_run_knows_that_changed_tags_are_trained_on_anew(runs):
    runs.begin(*TRAINED)
    runs(*TRAINED, runs.corrected("tags", {"a": [3]}))
    for name, shown in (("mine", {"b": [3]}), ("other", {"a": [3]})):
        given = [*TRAINED, runs.corrected("tags", shown, name)]
        runs(*given, "dry_run=true")
        (row,) = [line for line in runs.output.splitlines() if line.startswith("│ segmenter")]
        assert ("after masks" in row) == (name == "mine"), "other.csv says what mine.csv said"
        runs(*given)
        assert "segmenter all              5 images, " in runs.output


def test_damaged_statistics_count_as_damage(runs):
    runs.begin(UP_TO_MASKS)
    for statistics in ({"near_synonyms": [5]}, {"flat": "x"}, {"background": None}, 5):
        for path in runs.out.glob("all/*/*/manifest.json"):
            manifest = json.loads(path.read_text())
            path.write_text(json.dumps({**manifest, "statistics": statistics}))
        assert runs(UP_TO_MASKS)["masks"] == (0, 5, 0), statistics
