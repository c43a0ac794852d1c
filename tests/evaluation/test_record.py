"""``metrics.json``: an entry a key, whatever experiments it belongs to; damage, and its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import platform
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.evaluation.about import About
from pipeline.evaluation.currency import MEASURED_ON, MeasuredOn
from pipeline.evaluation.record import MetricsFile, changing_metrics
from pipeline.files.lock import HOLDER
from pipeline.report.tables.runs import read_runs
from pipeline.report.tables.study import write_study
from tests.results import open_writer

pytestmark = pytest.mark.usefixtures("figures_are_current")


def results_of(root, alpha):
    """Returns what writes the tags of a run, whose stage is known."""
    settings = {"alpha": alpha}
    writer = open_writer(root, "val", "tags", settings)
    writer.results.stage = SimpleNamespace(settings=settings, about={})
    return writer


def test_a_record_of_what_was_measured_sweeps_up_after_a_killed_one(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    half = tmp_path / f".partial-{killed.pid}-{platform.node()}-0123abcd"
    for path in (half, tmp_path / "a.npz"):
        path.write_text("half")
    MeasuredOn({}, {}, {}).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", MEASURED_ON}


def test_a_run_of_two_experiments_is_one_entry_and_counts_for_both(tmp_path):
    folder = results_of(tmp_path, 0.5)
    folder.write_manifest(complete=True)
    about = About(dataset="demo")
    for experiment in ("alpha", "", "preset", "alpha"):
        figures, named = {"images": 3, "map": 0.5, **KNOWN}, replace(about, experiment=experiment)
        with changing_metrics(tmp_path / "metrics.json") as metrics:
            metrics.put(folder.results, figures, named, {})
    (entry,) = json.loads((tmp_path / "metrics.json").read_text())["runs"]
    assert entry["versions"] == folder.results.manifest["versions"]
    assert entry["experiments"] == ["", "alpha", "preset"], "a run without a name is one as well"
    runs, problems = read_runs([tmp_path / "metrics.json"])
    assert not problems and [run.about.experiment for run in runs] == ["", "alpha", "preset"]
    assert "50.0" in write_study("alpha", runs) and "50.0" in write_study("preset", runs)


ABOUT = About(dataset="demo")
KNOWN = {"image_set": "a1", "ground_truth": "b2"}
FIGURES = {"images": 3, "map": 0.5, "f1": None, **KNOWN}


def put(path, alpha, **figures):
    with changing_metrics(path) as metrics:
        metrics.put(results_of(path.parent, alpha).results, {**FIGURES, **figures}, ABOUT, {})
    return metrics


@pytest.mark.parametrize("content", ['{"latest": {}, "ru', "[]", "7", "", '"text"', "\x00"])
def test_a_damaged_file_is_put_aside_with_a_sentence(content, tmp_path):
    (path := tmp_path / "metrics.json").write_text(content)
    assert MetricsFile(path).damage == f"{path} is damaged"
    damage = put(path, 0.5).damage
    assert damage.startswith(f"{path} is damaged: it was put aside as metrics.json.damaged")
    assert (tmp_path / "metrics.json.damaged").read_text() == content
    assert len(MetricsFile(path).runs) == 1 and not MetricsFile(path).damage
    path.write_text("again")
    assert "metrics.json.damaged2" in put(path, 0.5).damage
    assert (tmp_path / "metrics.json.damaged2").read_text() == "again"


def _with_run(content, **changes):
    content["runs"][0] |= changes


STRANGE = {
    "latest": lambda content: content.update(latest=[]),
    "a stage of latest": lambda content: content["latest"].update(tags=3),
    "another stage": lambda content: content["latest"].update(hats={"val": FIGURES}),
    "runs": lambda content: content["runs"].append(None),
    "a run without a key": lambda content: content["runs"][0].pop("key"),
    "a run of unknown images": lambda content: content["runs"][0].pop("image_set"),
    "images": lambda content: _with_run(content, images=True),
    "a figure": lambda content: _with_run(content, map="high"),
    "a class": lambda content: _with_run(content, per_class={"cat": {"ap": [1]}}),
    "a level": lambda content: _with_run(content, levels=[{"map": {}}]),
    "about": lambda content: _with_run(content, about="demo"),
    "experiments": lambda content: _with_run(content, experiments=5),
    "what it was made from": lambda content: _with_run(content, made_from={"tags": 1}),
    "a calibration": lambda content: _with_run(
        content, calibration={"threshold": 1, "f1": 1, "per_class": {"cat": {"best_f1": None}}}
    ),
    "configuration": lambda content: _with_run(content, configuration=None),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_an_entry_of_another_shape_costs_no_other_figures(strange, tmp_path):
    path = tmp_path / "metrics.json"
    for alpha in (0.1, 0.2):
        put(path, alpha)
    STRANGE[strange](content := json.loads(path.read_text()))
    path.write_text(before := json.dumps(content))
    metrics = put(path, 0.3)
    assert "put aside as metrics.json.damaged" in metrics.damage
    assert (tmp_path / "metrics.json.damaged").read_text() == before
    runs = MetricsFile(path).runs
    assert [run["configuration"]["alpha"] for run in runs][-2:] == [0.2, 0.3]
    assert MetricsFile(path).latest["tags"]["val"]["key"] == runs[-1]["key"]


def test_a_file_that_is_not_json_is_not_the_only_damage(tmp_path):
    (path := tmp_path / "metrics.json").write_text('{"runs": [7, 8]}')
    assert MetricsFile(path).damage == f"{path} has 2 damaged entries"
    path.write_text('{"runs": {}}')
    assert MetricsFile(path).damage == f"{path} is damaged"
    path.unlink()
    assert MetricsFile(path).damage == ""


def test_the_lock_is_that_of_all_folders(tmp_path, monkeypatch):
    """filelock's own substitute for a missing flock would outlive a kill."""

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with changing_metrics(tmp_path / "metrics.json"):
        assert (tmp_path / HOLDER).exists() and not (tmp_path / ".metrics.lock").exists()
    put(tmp_path / "metrics.json", 0.5)
    assert len(MetricsFile(tmp_path / "metrics.json").runs) == 1
