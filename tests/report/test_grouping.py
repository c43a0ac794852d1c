"""Which runs belong together, and which of them a cell shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.tables.grouping import choose_run
from pipeline.report.tables.markdown import Notes
from pipeline.report.tables.runs import MeasuredRun, read_runs
from tests.report.measured import measured, voc2007, write_runs

pytestmark = pytest.mark.usefixtures("figures_are_current")


def runs_of(tmp_path: Path, *entries: dict) -> list[MeasuredRun]:
    return read_runs([write_runs(tmp_path / "metrics.json", *entries)])[0]


def test_the_latest_run_on_all_images_is_chosen_and_not_the_largest(tmp_path):
    runs = runs_of(tmp_path, *(voc2007(0.9, n) for n in (8, 9, 7)))
    assert choose_run(runs).run.images == 9
    assert choose_run(runs, (7, 8)).run.images == 7


def seeded(seed: int, miou: float, images: int = 150, **masks: object) -> dict:
    segmenter = {"name": "demo", "seed": seed, "masks": {"crf": None, **masks}}
    run = measured("predictions", "val", images, {}, miou=miou)
    return run | {"configuration": {"segmenter": segmenter}, "key": f"{seed} {images} {masks}"}


def test_seeds_are_merged_into_mean_and_standard_deviation(tmp_path):
    seeds = [seeded(k, 0.6 + k / 10) for k in range(3)]
    chosen = choose_run(runs_of(tmp_path, *seeds))
    assert chosen.cell("miou", Notes()) == "70.0 ± 10.0 (3 seeds)"
    # Of other settings there is one more configuration, and as many images belong together.
    other, fewer = seeded(0, 0.1, crf={}), seeded(3, 0.2, images=9)
    chosen = choose_run(runs_of(tmp_path, other, fewer, *seeds))
    assert chosen.cell("miou", Notes()) == "70.0 ± 10.0 (3 seeds, latest of 2)"
