"""Trainings for processes that a test disturbs: slow ones, and ones that measure networks."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

import pipeline.segmenter.train as training
from pipeline.commands.command_line import answer
from pipeline.files.atomic import TEMPORARY
from tests.results import open_writer
from tests.segmenter.tiny_training import (
    FIGURES,
    figures_of,
    pretend_to_measure,
    run_stage_in,
    tiny_settings,
    train_tiny,
    training_stage,
    write_labelled,
    write_pairs,
)

SLOW = {"iterations": 24, "checkpoint_interval": 3}


def train_slowly(data: str, root: str) -> None:
    """Trains as the stage does, in a locked folder, with a process that loads images.

    Prints the number of every iteration, and ends as a tool does.
    """

    def report(iteration: int, total: int, loss: float) -> None:
        print(iteration, flush=True)
        time.sleep(0.1 if iteration < 5 else 1)  # it is disturbed at the fifth

    def run(_: list[str]) -> None:
        pairs, settings = write_pairs(Path(data)), tiny_settings(**SLOW, workers=1)
        with open_writer(Path(root), "", "segmenter", {}) as folder:
            train_tiny(pairs, folder.path, settings, on_iteration=report)

    answer(run)


def measured(data: str) -> tuple[list, list]:
    """Returns images to train on and to measure; the last network will be the best."""
    training.LOG_INTERVAL = 1  # so that logs and curves are written as often as anything else
    pretend_to_measure()
    return write_pairs(Path(data) / "pairs"), write_labelled(Path(data) / "val")


def train_measured(data: str, work_dir: str, iterations: int = 5) -> None:
    """Trains with validation, and ends as a tool does."""
    pairs, labelled = measured(data)
    settings = tiny_settings(validation_interval=2, learning_rate=0.1, iterations=iterations)
    answer(lambda _: train_tiny(pairs, Path(work_dir), settings, validation=labelled) and None)


def run_measured_stage(data: str, root: str) -> None:
    """Does what a run of ``stage=train`` does, with validation."""
    changes = {"iterations": max(FIGURES), "validation_interval": 2}
    run_stage_in(training_stage(*measured(data), **changes), Path(root))


def die_while_writing(data: str, work_dir: str) -> None:
    """Is killed in the midst of the third file: the second checkpoint, after the configuration."""
    written = []

    def kill(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            os.ftruncate(descriptor, 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = kill
    train_tiny(write_pairs(Path(data)), Path(work_dir))


def contents(root: Path) -> dict[str, Any]:
    """Returns everything that a finished stage leaves, but for times and logs."""
    (work_dir,) = (p for p in (root / "segmenter").iterdir() if p.is_dir() and not p.is_symlink())
    found: dict[str, Any] = {"latest": (root / "segmenter" / "latest").readlink().name}
    for path in root.rglob("*"):
        if path.name.startswith(TEMPORARY) or path.is_symlink():
            found[path.relative_to(root).as_posix()] = None
    manifest = json.loads((work_dir / "manifest.json").read_text())
    found["manifest"] = {k: manifest[k] for k in ("complete", "checkpoint", "images")}
    return {**found, **checkpoints_of(work_dir), "figures": figures_of(work_dir)}


def checkpoints_of(work_dir: Path) -> dict[str, Any]:
    """Returns the checkpoints' weights, as lists."""
    states = {
        p.name: torch.load(p, weights_only=True)["state_dict"] for p in work_dir.rglob("*.pth")
    }
    return {name: {n: v.tolist() for n, v in state.items()} for name, state in states.items()}
