"""Marks that code leaves when it runs, and the five pairs that a training needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.segmenter.tiny_training import tiny_settings, train_tiny


class Mark:
    """A path that exists as soon as the code in a file ran.

    Attributes:
        path: the mark.
    """

    def __init__(self, path: Path):
        self.path = path

    def is_left_by(self, careless: Callable[[], object]) -> bool:
        """Tells whether reading a file carelessly runs what is in it, and removes the mark."""
        assert not self.path.exists()
        with contextlib.suppress(Exception):
            careless()
        left = self.path.exists()
        if left:
            self.path.rmdir() if self.path.is_dir() else self.path.unlink()
        return left

    @property
    def is_left(self) -> bool:
        return self.path.exists()

    @property
    def program(self) -> str:
        """A config of mmsegmentation that leaves the mark when it is read."""
        made = f"__import__('os').mkdir({str(self.path)!r})"
        return f"made = {made}\nmodel = dict(backbone=dict())\n"


@pytest.fixture
def mark(tmp_path: Path) -> Mark:
    """Where code leaves its mark."""
    return Mark(tmp_path / "mark")


@pytest.fixture(scope="session")
def learn(pairs: list) -> Callable[..., Path]:
    """Trains the tiny network in a folder, from what is there."""

    def run(work_dir: Path, **changes: object) -> Path:
        settings = tiny_settings(**{"iterations": 2, "checkpoint_interval": 1, **changes})
        return train_tiny(pairs, work_dir, settings)

    return run


@pytest.fixture(scope="session")
def two_steps(undisturbed_training: Callable[..., tuple[Path, list]]) -> Path:
    """The folder of a training of two steps, with a checkpoint after each."""
    return undisturbed_training(iterations=2, checkpoint_interval=1)[0]
