"""Tables of one experiment that was run with several settings."""

from __future__ import annotations

import json

import pytest

from pipeline.commands.make_tables import run as run_command
from pipeline.errors import UserError
from pipeline.evaluation.about import About
from pipeline.report.tables.runs import MeasuredRun
from pipeline.report.tables.study import write_study
from tests.report.chains import cells
from tests.report.measured import KNOWN

CLIP = {"model": "ViT-B-16", "weights": "f00", "precision": "fp32", "exif": True}


def study_run(
    stage: str, configuration: dict, about: dict | None = None, images: int = 10, **figures: object
) -> MeasuredRun:
    """A run of the experiment "mine", whose key is its configuration."""
    named = {"experiment": "mine", "dataset": "demo", "clip": "demo", **(about or {})}
    key = json.dumps(configuration, sort_keys=True)
    about = About.of(named)
    return MeasuredRun(0, stage, "val", key, images, about, configuration, {}, figures)


def tags_run(alpha: float, value: float, **figures: object) -> MeasuredRun:
    settings = {"method": "tagclip", "alpha": alpha, "votes": 4, "clip": CLIP}
    return study_run("tags", settings, map=value, f1=value / 2, **figures)


def test_a_study_shows_what_differs_and_the_best_in_bold():
    variants = [{"dmar": {"map": 0.5}, "cwr": {"map": v}, "clip": {"map": 0.1}} for v in (0.9, 0.8)]
    del variants[1]["clip"]
    runs = [
        tags_run(0.5, 0.8, variants=variants[1]),
        tags_run(0.3, 0.9, variants=variants[0]),
    ]
    assert cells(write_study("mine", runs)) == [
        ["alpha", "mAP", "mAP dmar", "mAP cwr", "F1"],
        ["0.3", "**90.0**", "50.0", "**90.0**", "**45.0**"],
        ["0.5", "80.0", "50.0", "80.0", "40.0"],
    ]


def test_of_equal_keys_the_latest_counts_and_other_experiments_do_not():
    other = study_run("tags", {"alpha": 0.9}, {"experiment": "theirs"}, map=0.1)
    text = write_study("mine", [tags_run(0.3, 0.1), tags_run(0.5, 0.2), tags_run(0.3, 0.4), other])
    assert [row[1] for row in cells(text)] == ["mAP", "**40.0**", "20.0"]


def test_a_setting_of_an_earlier_stage_stands_once_under_its_short_name():
    def maps(alpha: float, precision: str, value: float) -> MeasuredRun:
        clip = {**CLIP, "precision": precision}
        tags = {"alpha": alpha, "clip": clip}
        settings = {"clip": clip, "tags": tags, "names": ["a", "b"]}
        return study_run("cams", settings, {"precision": precision}, miou=value)

    runs = [maps(a, p, 0.1) for a in (0.5, 0.3) for p in ("fp32", "bf16")]
    table = cells(write_study("mine", runs))
    assert table[0] == ["precision", "alpha", "mIoU"]
    assert [row[:2] for row in table[1:]] == [
        *(["bf16", "0.3"], ["bf16", "0.5"], ["fp32", "0.3"], ["fp32", "0.5"])
    ]


def test_names_that_end_alike_keep_what_tells_them_apart():
    def both(outer: int, inner: int) -> MeasuredRun:
        settings = {"algorithm": outer, "cams": {"algorithm": inner}}
        return study_run("masks", settings, miou=0.5)

    table = cells(write_study("mine", [both(1, 1), both(1, 2), both(2, 1)]))
    assert table[0][:2] == ["algorithm", "cams.algorithm"]


def test_a_choice_with_a_name_stands_for_the_settings_behind_it():
    def with_clip(name: str, model: str, weights: str) -> MeasuredRun:
        clip = {**CLIP, "model": model, "weights": weights}
        return study_run("tags", {"clip": clip}, {"clip": name}, map=0.5)

    runs = [with_clip("vit_b16", "ViT-B-16", "f00"), with_clip("vit_l14", "ViT-L-14", "f01")]
    assert cells(write_study("mine", runs))[0] == ["clip", "mAP"]
    runs.append(with_clip("vit_l14", "ViT-L-14", "f02"))
    assert cells(write_study("mine", runs))[0] == ["clip", "weights", "mAP"]


def test_a_missing_group_and_long_lists_are_short():
    crf = {"iterations": 10, "bilateral_sxy": 67}
    prompts = {"templates": [f"a {i} of {{}}" for i in range(80)]}
    runs = [
        study_run("masks", {"crf": None, "cams": {"templates": ["a {}"]}}, miou=0.4, images=9),
        study_run("masks", {"crf": crf, "cams": prompts}, miou=0.5),
        study_run("masks", {"crf": {**crf, "iterations": 5}, "cams": prompts}, miou=0.6),
    ]
    header, *rows = cells(write_study("mine", runs))
    assert header == ["crf", "templates", "iterations", "images", "mIoU"]
    assert rows[0][:1] + rows[0][2:] == ["null", "–", "9", "40.0"]
    assert rows[1][1].startswith("80 entries (") and rows[1][2:] == ["5", "10", "**60.0**"]


def test_levels_and_the_choice_by_ground_truth_are_in_a_study():
    chosen = {"background_beta": 2.0, "chosen_by_ground_truth": {"1": 0.1, "2": 0.2}}
    runs = [
        study_run("cams", {"box_threshold": t}, miou=v, levels=[{"miou": 2 * v}], **chosen)
        for t, v in ((0.4, 0.2), (0.7, 0.1))
    ]
    note = "background chosen by ground truth (β=2)"
    assert cells(write_study("mine", runs)) == [
        ["box_threshold", "mIoU", "mIoU, level 1", "notes"],
        ["0.4", "**20.0**", "**40.0**", note],
        ["0.7", "10.0", "20.0", note],
    ]


def test_runs_that_no_setting_tells_apart_have_their_keys():
    assert cells(write_study("mine", [tags_run(0.5, 0.8)])) == [
        ["key", "mAP", "F1"],
        [tags_run(0.5, 0.8).key, "80.0", "40.0"],
    ]


def test_many_pairs_of_blocks_become_a_matrix():
    def pair(first: int, last: int) -> MeasuredRun:
        settings = {"attention_blocks": [first, last], "votes": 4}
        return study_run("tags", settings, map=(last - first) / 100, f1=0.5)

    pairs = [(first, last) for first in range(-6, 0) for last in range(first, 0)]
    table = cells(write_study("mine", [pair(*p) for p in pairs]))
    assert table[0] == ["attention_blocks: first ↓ last →", "-6", "-5", "-4", "-3", "-2", "-1"]
    assert table[1] == ["-6", "0.0", "1.0", "2.0", "3.0", "4.0", "**5.0**"]
    assert table[-1] == ["-1", "", "", "", "", "", "0.0"]
    few = cells(write_study("mine", [pair(*p) for p in pairs[:12]]))
    assert few[0] == ["attention_blocks", "mAP", "F1"] and few[1][0] == "[-6, -6]"


def test_the_command_writes_a_study_alone_and_knows_the_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run .* experiment yours"):
        run_command(["--study", "yours"])
    runs = [
        {
            "stage": "tags",
            "split": "val",
            "key": str(alpha),
            "images": 10,
            "about": {"dataset": "demo"},
            "configuration": {"alpha": alpha},
            **KNOWN,
            "experiments": ["mine"],
            "map": alpha,
        }
        for alpha in (0.3, 0.5)
    ]
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "metrics.json").write_text(json.dumps({"runs": runs}))
    run_command(["--study", "mine", "--output", "docs/mine.md"])
    written = (tmp_path / "docs" / "mine.md").read_text(encoding="utf-8")
    assert written.startswith("# mine\n\n## demo val, tags\n") and "| **50.0** |" in written
    assert capsys.readouterr().out == f"{written}\nwritten to docs/mine.md\n"
    assert not (tmp_path / "outputs" / "tables.md").exists()
    with pytest.raises(UserError, match="yours: those that exist are mine;"):
        run_command(["--study", "yours"])
