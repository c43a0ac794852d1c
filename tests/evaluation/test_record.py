"""``metrics.json`` has one entry a key, whatever experiments it belongs to."""

from __future__ import annotations

import json

from pipeline.engine.store import Store
from pipeline.evaluation.record import changing_metrics
from pipeline.report.runs import read_runs
from pipeline.report.study import write_study


def test_a_run_of_two_experiments_is_one_entry_and_counts_for_both(tmp_path):
    folder = Store(tmp_path).folder("val", "tags", {"alpha": 0.5})
    about = {"dataset": "demo", "experiment": "alpha"}
    for experiment in ("alpha", "", "preset", "alpha"):
        figures, named = {"images": 3, "map": 0.5}, {**about, "experiment": experiment}
        with changing_metrics(tmp_path / "metrics.json") as metrics:
            metrics.put(folder, "input", figures, named)
    (entry,) = json.loads((tmp_path / "metrics.json").read_text())["runs"]
    assert entry["experiments"] == ["alpha", "preset"]
    runs, problems = read_runs([tmp_path / "metrics.json"])
    assert not problems and [run.choices.experiment for run in runs] == ["alpha", "preset"]
    assert "50.0" in write_study("alpha", runs) and "50.0" in write_study("preset", runs)
