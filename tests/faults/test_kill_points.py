"""SIGKILL at every point at which a run writes, then the same command again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.runs import Nursery, unfinished_files
from tests.faults.test_kills import metrics_of, prepare
from tests.small_runs import artefacts

pytestmark = pytest.mark.large

FEW = "dataset.limit=3"


@pytest.fixture(scope="module")
def few(nursery, options, tmp_path_factory):
    """What all stages write of a few images."""
    folder = tmp_path_factory.mktemp("few")
    nursery.run(*options, FEW, f"output_dir={folder}")
    return folder


def points_of(nursery: Nursery, arguments: list[str], out: Path, kill_at: int | None) -> list[str]:
    """Does a run, killed before a point if one is given; returns the points that it reached."""
    trace = out.with_suffix(".points")
    watch = [str(out), str(trace), kill_at]
    run = nursery.start(*arguments, f"output_dir={out}", watch=watch)
    assert run.wait() == (0 if kill_at is None else -9), run.output
    return trace.read_text().splitlines()


@pytest.mark.parametrize("share", [2, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("stages", ["tags,cams,masks", "predict,evaluate,report"])
def test_a_kill_before_any_write_changes_nothing(stages, share, nursery, options, few, tmp_path):
    arguments = [*options, f"stage=[{stages}]", FEW]
    first = stages.split(",")[0]
    whole = tmp_path / "whole"
    prepare(few, whole, first)
    points = points_of(nursery, arguments, whole, None)
    assert len(points) > 30
    wanted, step = artefacts(whole), 1 if share == 1 else len(points) // share
    for number in range(step - 1, len(points), step):
        out = tmp_path / f"killed-{number}"
        prepare(few, out, first)
        points_of(nursery, arguments, out, number)
        nursery.run(*arguments, f"output_dir={out}")
        assert artefacts(out) == wanted, points[number]
        assert metrics_of(out) == metrics_of(whole), points[number]
        assert not unfinished_files(out), points[number]
        shutil.rmtree(out)
