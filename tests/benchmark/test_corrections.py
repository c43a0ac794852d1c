"""The curve of corrections: files that stand in for a person, and the table of what they give."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.datasets.corrections import read_corrections
from pipeline.files.label_images import read_labels
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.report.measured import rows_of
from tools.benchmark.corrections import (
    curve,
    half_of_the_gain,
    mask_curve,
    review,
    write,
    write_masks,
)


def run_of(stage: str, split: str, name: str, value: float, seed: int = 0) -> dict:
    """Returns an entry of ``metrics.json``."""
    tags = {"method": "tagclip", **({"corrections": name} if name else {})}
    settings = {"tags": tags, "masks": {"cams": {"tags": tags}}}
    settings["predictions"] = {"segmenter": {"seed": seed, "masks": settings["masks"]}}
    metric = "f1" if stage == "tags" else "miou"
    key = f"{stage} {name} {seed}"
    return {
        "stage": stage,
        "split": split,
        "key": key,
        metric: value,
        "configuration": settings[stage],
        "legend": {name: {"file": name, "images": 1, "date": ""}} if name else {},
    }


def test_the_curve_has_a_row_for_each_number_and_order():
    runs = [run_of("tags", "train", "", 0.5), run_of("tags", "train", "all.csv", 1.0)]
    for seed, value in enumerate((0.3, 0.4, 0.5)):
        runs.append(run_of("predictions", "report", "", value, seed))
        name = f"random_{seed}_50.csv"
        runs.append(run_of("predictions", "report", name, value + 0.1, seed))
        runs.append(run_of("masks", "train", name, 0.6))
    runs.append(run_of("predictions", "train", "", 0.9))  # of another split
    runs.append(run_of("masks", "train", "doubt_50.csv", 0.7))
    text = curve(runs, 400).markdown()
    assert rows_of(text, "")[2:] == [
        ["0", "", "50.0", "", "40.0 ± 10.0"],
        ["50", "by doubt", "", "70.0", ""],
        ["50", "at random", "", "60.0 ± 0.0", "50.0 ± 10.0"],
        ["400", "", "100.0", "", ""],
    ]
    assert "Half of the gain" in text


def test_notes_say_how_many_images_reach_half_of_the_gain():
    values = {"": 0.5, "doubt_50.csv": 0.6, "random_0_50.csv": 0.5, "all.csv": 0.7}
    runs = [run_of("tags", "train", name, value) for name, value in values.items()]
    runs += [run_of("masks", "train", "all.csv", 0.7)]  # the others are not there yet
    assert curve(runs, 400).notes == [
        "Half of the gain, by doubt, in images: F1 of tags, train: 50.",
        "Half of the gain, at random, in images: F1 of tags, train: 225.",
    ]


def test_half_of_the_gain_lies_between_two_measurements():
    assert half_of_the_gain([0, 50, 200, 400], [50, 60, 80, 90]) == 125
    assert half_of_the_gain([0, 400], [0, 1]) == 200


def test_masks_have_a_row_for_each_number_and_repetition():
    runs = []
    for seed, value in enumerate((0.3, 0.4, 0.5)):
        runs.append(run_of("predictions", "report", "", value, seed))
        for repeats in (1, 4):
            name = f"masks_{seed}_20/train"
            run = run_of("predictions", "report", name, value + repeats / 100, seed)
            run["configuration"]["segmenter"]["repeat_corrected"] = repeats
            runs.append({**run, "key": f"{run['key']} {repeats}"})
        runs.append(run_of("masks", "train", f"masks_{seed}_20/train", 0.6))
    runs.append(run_of("masks", "train", "masks_all/train", 0.9))
    assert rows_of(mask_curve(runs, 400).markdown(), "")[2:] == [
        ["0", "1", "", "40.0 ± 10.0"],
        ["20", "1", "60.0 ± 0.0", "41.0 ± 10.0"],
        ["20", "4", "", "44.0 ± 10.0"],
        ["400", "1", "90.0", ""],
    ]


@pytest.mark.large
def test_folders_hold_the_masks_of_the_ground_truth(tmp_path):
    given = ["experiment=corrections", "dataset.limit=30", f"output_dir={tmp_path / 'out'}"]
    pipeline = Pipeline.open(read_config(compose([*given, "stage=tags"])))
    cells = [*write_masks(pipeline)]
    assert [seed for seed, _ in cells] == sorted(seed for seed, _ in cells)
    (twenty,) = {given[0].partition("=")[2] for seed, given in cells if "masks_1_20" in str(given)}
    paths = [*(Path(twenty) / "train").glob("*.png")]
    samples = {s.id: s for s in pipeline.builder.images.of("train")}
    assert len(paths) == 20
    assert all((read_labels(p) == samples[p.stem].mask.read()).all() for p in paths)


@pytest.mark.large
def test_files_hold_the_truth_of_the_most_doubtful_images_and_of_any(run_stage, tmp_path):
    given = ["experiment=corrections", "dataset.split=train", "dataset.limit=6"]
    given += [f"output_dir={tmp_path / 'out'}"]
    finished = run_stage(*given, "stage=[tags,report]", "report.split=train")
    assert finished.code == 0, finished.errors
    pipeline = Pipeline.open(read_config(compose([*given, "stage=tags"])))
    files = {path.name: (path, seeds) for path, seeds in write(pipeline)}
    assert len(files) == 1 + 2 + 3 * 2 and files["random_1_50.csv"][1] == (1,)
    classes = pipeline.builder.vocabulary.classes
    samples = {s.id: s for s in pipeline.builder.images.of("train")}
    for path, _ in files.values():
        found = read_corrections(path, "tags.corrections", classes)["train"]
        assert found == {i: samples[i].ground_truth_labels for i in found} and len(found) == 6
    orders = {name: path.read_text() for name, (path, _) in files.items()}
    assert orders["random_0_50.csv"] != orders["random_1_50.csv"]
    page = (tmp_path / "out" / "report.html").read_text()
    doubts = {}
    for card in page.split('<li class="card"')[1:]:
        image_id = card.partition('<span class="name"><bdi>')[2].partition("<")[0]
        doubts[image_id] = float(card.partition('data-doubt="')[2].partition('"')[0])
    ids = [line.partition(",")[0] for line in orders["doubt_50.csv"].splitlines()[1:]]
    assert [doubts[i] for i in ids] == sorted(doubts.values(), reverse=True)
    table = review(pipeline, "train").markdown()
    shares = {cells[0]: [*map(float, cells[2:])] for cells in rows_of(table, "")[2:]}
    assert shares["at random"] == [16.7, 50.0]
    best = shares["the best possible"]
    assert all(a <= b for a, b in zip(shares["by doubt"], best)) and best == sorted(best)
