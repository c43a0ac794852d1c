"""The measured runs: in which order they are read, and what changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.evaluation.about import About
from pipeline.masks.name_lists import read_name_list
from pipeline.report.tables.grouping import choose_run
from pipeline.report.tables.runs import MeasuredRun, read_runs
from pipeline.stages.config import compose, read_config
from tests.report.measured import voc2007, write_runs


def test_runs_of_several_files_are_numbered_through(tmp_path):
    first = write_runs(tmp_path / "a" / "metrics.json", {}, voc2007(0.1))
    second = write_runs(tmp_path / "b" / "metrics.json", voc2007(0.2), voc2007(0.3))
    assert [run.order for run in read_runs([first, second])[0]] == [0, 1, 2]


def test_of_whole_splits_the_latest_is_chosen_and_not_the_largest(tmp_path):
    path = write_runs(tmp_path / "metrics.json", voc2007(0.9, 8), voc2007(0.9, 7))
    runs, _ = read_runs([path])
    assert choose_run(runs, (7, 8)).run.images == 7


def test_a_level_that_was_not_measured_has_no_figure(tmp_path):
    parents = {"levels": [{"map": 0.4}]}
    path = write_runs(tmp_path / "metrics.json", voc2007(0.3), {**voc2007(0.3), **parents})
    runs, _ = read_runs([path])
    assert [[run.value("map", level) for level in (0, 1, 2)] for run in runs] == [
        [0.3, None, None],
        [0.3, 0.4, None],
    ]


@pytest.mark.parametrize("experiment", ["lposs_ade20k", "sclip_ade20k"])
def test_names_are_held_against_those_of_the_experiment(experiment):
    given = read_config(compose([f"experiment={experiment}", "dataset.root=unused"]))
    names = [*map(list, read_name_list(given.masks.names, build_vocabulary(given.dataset)))]
    for found, changed in ((names, []), ([["wall"]], ["masks.names=[[wall]]"])):
        settings = {"method": "dense", "names": found}
        run = MeasuredRun(Path("m"), 0, "masks", "val", "", 2, About(experiment), settings, {})
        assert run.changes() == changed


def test_settings_are_held_against_the_experiment_s_own():
    inner = {"method": "tagclip", "alpha": 0.5, "templates": ["a {}", "b {}"]}
    maps = {"affinity_blocks": [-7, -1], "backgrounds": ["sky"], "tags": inner}
    masks = {"beta": 1.0, "crf": {"iterations": 10, "bilateral_sxy": 67}, "cams": maps}

    def changes(stage: str, configuration: dict, **figures: object) -> list[str]:
        about = About("cls_seg_voc2012")
        place = (Path("metrics.json"), 0, stage, "val", "key", 1449)
        return MeasuredRun(*place, about, configuration, figures).changes()

    assert not changes("masks", masks)
    assert not changes("predictions", {"segmenter": {"masks": masks}})
    assert not changes("predictions", {"segmenter": {"masks": "ground truth"}})
    assert changes("masks", {**masks, "crf": None}) == ["masks.crf=null"]
    assert changes("masks", {**masks, "method": "par"}) == ["masks.method=par"]
    assert changes("cams", {**maps, "method": "clip_es"}) == []
    assert changes("cams", {**maps, "method": "file"}) == ["cams.method=file"]
    inner["alpha"], masks["crf"]["iterations"] = 0.3, 5
    assert changes("masks", masks) == ["masks.crf.iterations=5", "tags.alpha=0.3"]
    chosen = {"chosen_by_ground_truth": {"1": 0.1, "2": 0.2}}
    assert changes("cams", {}, **chosen) == ["cams.background_betas=[1, 2]"]
