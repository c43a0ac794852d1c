"""Runs on hostile files: every test must end, and every error must be one sentence."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.small_runs import Finished, folder_options

_SECONDS = 600


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fails a test that blocks, for example on a pipe without a writer."""

    def give_up(*_: object) -> None:
        pytest.fail(f"the test blocked for {_SECONDS} seconds")  # which no reader catches

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder for photographs."""
    path = tmp_path / "photographs"
    path.mkdir()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output directory of :func:`run_on`."""
    return tmp_path / "out"


@pytest.fixture
def run_on(
    run_stage: Callable[..., Finished], root: Path, out: Path, tiny_checkpoint: Path
) -> Callable[..., Finished]:
    """Runs the command line on the photographs with a tiny CLIP; later arguments win."""

    def run(*arguments: str) -> Finished:
        return run_stage(*folder_options(root, tiny_checkpoint, f"output_dir={out}", *arguments))

    return run


def failures(folder: Path) -> dict[str, str]:
    """Returns id → reason, as ``failures.jsonl`` in a folder has them."""
    path = folder / "failures.jsonl"
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["reason"] for line in lines}


def assert_one_sentence(finished: Finished, *holds: str) -> None:
    """Checks that a run ended with exit code 2 and one sentence that a person can read."""
    assert finished.code == 2, finished
    *others, last = finished.errors.splitlines()
    assert last.startswith("error: ") and len(last) < 700 and last.isprintable()
    expected = ("left out: ", "note: ", "stage ")
    assert all(line.startswith(expected) for line in others), finished.errors
    for part in holds:
        assert part in last


def short(value: object) -> str:
    """Returns a value as a test's name shows it."""
    return str(value)[:24].encode("unicode_escape").decode()
