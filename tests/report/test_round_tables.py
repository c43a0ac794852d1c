"""The table of self-training's rounds, from metrics.json and what manifests say of networks."""

import shutil

import pytest

from pipeline.evaluation.currency import Currency
from pipeline.evaluation.record import MetricsFile
from pipeline.report.tables.latest import collect_rounds
from tests.results import open_writer


@pytest.fixture
def run(tmp_path):
    """Completes a folder; returns its entry in metrics.json, which later ones are made from."""

    def run(stage, split, name, *needs, **figures):
        places = {need["stage"]: [need["split"], need["stage"], need["key"]] for need in needs}
        facts = {"made_from": places, "command": stage}
        configuration = {"name": name}
        with open_writer(tmp_path, split, stage, configuration, about=facts) as folder:
            folder.finish([])
        entry = {"stage": stage, "split": split, "key": folder.results.key, "made_from": places}
        return {**entry, "configuration": configuration, **figures}

    return run


@pytest.fixture
def metrics_of(tmp_path):
    def metrics_of(*runs):
        metrics = MetricsFile(tmp_path / "metrics.json")
        metrics.runs = list(runs)
        predictions = [r for r in runs if r["stage"] == "predictions"]
        metrics.latest = {"predictions": {r["split"]: r for r in predictions}}
        return metrics

    return metrics_of


def test_rounds_are_found_back_from_the_last_segmenter(run, metrics_of):
    first_tags = run("tags", "train", "t1")
    first = run(
        "segmenter", "", "s1", run("masks", "train", "m1", run("cams", "train", "c1", first_tags))
    )
    second = run("segmenter", "", "s2", run("masks", "train", "m2", first))
    other = run("segmenter", "", "another seed")
    metrics = metrics_of(
        run("tags", "val", "t1", map=0.9, f1=0.8, levels=[{"map": 0.95}]),
        run("tags", "val", "other", map=0.1, f1=0.1),
        run("masks", "val", "m1", miou=0.7, kept=1.0),
        run("predictions", "val", "p1", first, miou=0.71),
        run("predictions", "val", "px", other, miou=0.11),
        run("tags", "val", "t2", first, map=0.91, f1=0.82),
        run("masks", "val", "m2", first, miou=0.72, kept=0.93),
        run("predictions", "val", "p2", second, miou=0.73),
    )
    table = collect_rounds(metrics)
    first, second = (dict(zip(table.header, row)) for row in table.rows)
    assert first == {
        "round": "1",
        "tags mAP, val": "90.0",
        "tags mAP level 1, val": "95.0",
        "tags F1, val": "80.0",
        "masks mIoU, val": "70.0",
        "pixels kept, val": "100.0",
        "segmenter mIoU, val": "71.0",
    }
    assert second["round"] == "2" and second["tags mAP, val"] == "91.0"
    assert second["tags mAP level 1, val"] == "" and second["segmenter mIoU, val"] == "73.0"


def test_a_split_that_was_predicted_earlier_does_not_hide_the_rounds(run, metrics_of):
    first = run("segmenter", "", "s1")
    second = run("segmenter", "", "s2", run("masks", "train", "m2", first))
    before = run("predictions", "train", "p", first, miou=0.7)
    table = collect_rounds(metrics_of(before, run("predictions", "val", "p", second, miou=0.73)))
    assert "73.0" in table.rows[1]


def test_a_single_round_has_no_table(run, metrics_of):
    network = run("segmenter", "", "s1", run("masks", "train", "m1"))
    assert not collect_rounds(metrics_of(run("predictions", "val", "p", network, miou=0.7))).rows
    assert not collect_rounds(metrics_of()).rows


def test_own_masks_have_rounds_too(run, metrics_of):
    later = run("segmenter", "", "s2", run("masks", "train", "m2", run("segmenter", "", "files")))
    metrics = metrics_of(run("predictions", "val", "p", later, miou=0.5))
    assert "50.0" in collect_rounds(metrics).rows[1]


def test_rounds_that_began_with_the_ground_truth_are_marked(run, metrics_of):
    first = run("segmenter", "", "s1")
    second = run("segmenter", "", "s2", run("masks", "train", "m2", first))
    told = {"miou": 0.5, "supervised": True}
    runs = [run("predictions", "val", each["key"], each, **told) for each in (first, second)]
    said = "predictions of split val, round {}: trained on the ground truth (supervised)."
    assert collect_rounds(metrics_of(*runs)).notes == [said.format(1), said.format(2)]


def test_figures_of_removed_results_are_marked(run, metrics_of, tmp_path):
    first = run("segmenter", "", "s1")
    second = run("segmenter", "", "s2", run("masks", "train", "m2", first))
    removed = run("predictions", "val", "p1", first, miou=0.71)
    shutil.rmtree(tmp_path / "val" / "predictions" / removed["key"])
    metrics = metrics_of(removed, run("predictions", "val", "p2", second, miou=0.73))
    metrics.runs[1]["measured_on"] = ""
    metrics.withhold(Currency(tmp_path))
    table = collect_rounds(metrics)
    assert "71.0" in table.rows[0]
    assert table.notes == ["predictions of split val, round 1: results removed."]
