"""Runs that can be killed: real processes, many a minute; and what they leave behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import torch

from pipeline.clip.encoder import ClipEncoder
from pipeline.configuration.hydra import compose_config
from pipeline.errors import UserError
from tests import REPOSITORY
from tests.processes import Forks, Run
from tests.small_runs import TINY_SEGMENTER, artefacts

SHORT_TRAINING = (
    *TINY_SEGMENTER,
    "segmenter.iterations=6",
    "segmenter.checkpoint_interval=2",
)


PRELOADED = ("tests.faults.runs", "pipeline.commands.run_stage", "pipeline.segmenter.predict")
PRELOADED += ("pipeline.segmenter.train", "tests.segmenter.tiny_training:shorten_logs")
PRELOADED += ("tests.compositions:remember_compositions",)


class Nursery(Forks):
    """Starts runs of ``tools/run_stage.py``."""

    def __init__(self, folder: Path):
        super().__init__(*PRELOADED, folder=folder)

    def start(self, *arguments: object, calls: Path | None = None, watch: object = ()) -> Run:
        """Starts a run.

        ``calls`` is a file for :func:`watch_backbone`; for ``watch`` see kill_points.py.
        """
        first = [["tests.faults.runs:watch_backbone", calls]] if calls else []
        first += [["tests.faults.kill_points:watch", *watch]] if watch else []
        before = ["tests.faults.runs:compose", *map(str, arguments)]  # so that its fork need not
        tool = REPOSITORY / "tools" / "run_stage.py"
        return self.run_tool(tool, *arguments, first=first, before=before)

    def run(self, *arguments: object, code: int = 0, calls: Path | None = None) -> str:
        """Does a run to its end, and returns what it printed."""
        run = self.start(*arguments, calls=calls)
        assert run.wait() == code, run.output
        return run.output


def compose(*arguments: str) -> None:
    """Composes a configuration, if it can be."""
    with contextlib.suppress(UserError):
        compose_config([*arguments])


def watch_backbone(path: str) -> None:
    """Has a byte "<" written when CLIP's backbone is called, and ">" when it has returned."""
    backbone = ClipEncoder.backbone
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watched(self, pixels, *listeners):
        os.write(file, b"<")
        tokens = backbone(self, pixels, *listeners)
        os.write(file, b">")
        return tokens

    ClipEncoder.backbone = watched


def results_of_images(root: Path, *stages: str) -> dict[str, bytes]:
    """Returns the results of images below a folder, those of some stages where these are named.

    Of a training, the weights are compared: checkpoints are archives with times in them.
    """
    return {
        name: data
        for name, data in artefacts(root).items()
        if "segmenter" not in name.split("/")
        if not stages or {*stages} & {*name.split("/")}
    }


def unfinished_files(root: Path) -> list[Path]:
    """Returns what no run may leave behind: halves of files, workers' journals."""
    return [p for p in root.rglob(".*") if p.name.startswith((".partial-", ".entries-"))]


def weights_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns a segmenter's weights."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name: value.numpy() for name, value in state.items()}
