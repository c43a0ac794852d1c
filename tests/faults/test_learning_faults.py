"""SIGKILL of PIAA while it learns and while it tags, then the same command again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.faults.runs import unfinished_files
from tests.faults.test_faults import done_in, kill_with_workers
from tests.faults.test_kill_points import points_of
from tests.processes import wait_until
from tests.small_runs import artefacts

pytestmark = pytest.mark.large

SCANS = ("patches", "tags")
STEPS = ("tags", "prototypes", "statistics")


@pytest.fixture(scope="module")
def arguments(options) -> list[str]:
    """A run of PIAA on the photographs."""
    own = [each for each in options if not each.startswith(("tags.votes=", "tags.templates="))]
    return [*own, "stage=tags", "tags=piaa", "tags.bank_size=4", "tags.standardise=[class]"]


@pytest.fixture(scope="module")
def learned(nursery, arguments, tmp_path_factory) -> tuple[dict[str, bytes], list[str]]:
    """The artefacts of an undisturbed run, and the points at which it can be killed."""
    out = tmp_path_factory.mktemp("piaa") / "whole"
    points = points_of(nursery, arguments, out, None)
    found = results(out)
    assert all(any(f"/{step}/" in f"/{name}" for name in found) for step in STEPS), sorted(found)
    return found, points


def results(out: Path) -> dict[str, bytes]:
    """Returns all artefacts but patches, of which more are stored by who saw fewer images."""
    return {name: data for name, data in artefacts(out).items() if "/patches/" not in name}


def test_a_kill_in_any_step_changes_nothing(nursery, arguments, learned, tmp_path, kills):
    expected, points = learned
    times = max(3, kills)
    for number in (len(points) * k // (times + 1) for k in range(1, times + 1)):
        out = tmp_path / f"killed-{number}"
        points_of(nursery, arguments, out, number)
        nursery.run(*arguments, f"output_dir={out}")
        assert results(out) == expected, points[number]
        assert not unfinished_files(out), points[number]
        shutil.rmtree(out)


def test_workers_learn_the_same_bytes_though_killed(nursery, arguments, learned, tmp_path, kills):
    expected, _ = learned
    generator = random.Random(5)
    more = ["executor=processes", "runtime.workers=2"]
    times = max(1, kills // 3)
    for number in range(times):
        out = tmp_path / f"out-{number}"
        run = nursery.start(*arguments, *more, f"output_dir={out}")
        step, wanted = SCANS[number % 2], generator.randrange(1, 16)
        wait_until(lambda o=out, s=step, w=wanted: sum(map(done_in, o.glob(f"all/{s}/*/"))) >= w)
        kill_with_workers(run)
        nursery.run(*arguments, *more, f"output_dir={out}")
        assert results(out) == expected
        assert not unfinished_files(out)
        shutil.rmtree(out)
