"""Runs that can be killed: real processes, many a minute; and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tests import REPOSITORY
from tests.small_runs import TINY_SEGMENTER, artefacts

SHORT_TRAINING = (
    *TINY_SEGMENTER,
    "segmenter.iterations=6",
    "segmenter.checkpoint_interval=2",
)


class Run:
    """A run of ``tools/run_stage.py``."""

    def __init__(self, nursery: subprocess.Popen, output: Path):
        self._nursery = nursery
        self._output = output
        self.process = self._answer()
        self._code: int | None = None

    def _answer(self) -> int:
        readable, _, _ = select.select([self._nursery.stdout], [], [], 600)
        assert readable, f"it hangs: {self.output}"
        return int(self._nursery.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the whole process group, as a terminal and a batch system do."""
        os.killpg(self.process, number)

    def kill(self) -> None:
        """Kills the process alone, as the system does for want of memory."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process, signal.SIGKILL)

    def wait(self) -> int:
        """Returns the exit code, negative for a signal."""
        if self._code is None:
            self._code = self._answer()
        return self._code

    @property
    def is_running(self) -> bool:
        """Whether nobody has waited for its end."""
        return self._code is None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""


class Nursery:
    """Starts runs, one at a time, without the seconds that imports take."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0
        self._last: Run | None = None
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )

    def start(self, *arguments: object, calls: Path | None = None, watch: object = None) -> Run:
        """Starts a run; for ``calls`` and ``watch`` see nursery.py."""
        if self._last is not None and self._last.is_running:  # a test failed before its end
            self._last.kill()
            self._last.wait()
        self._count += 1
        output = self._folder / f"output-{self._count}.txt"
        order = {"arguments": [*map(str, arguments)], "output": str(output)}
        if calls is not None:
            order["calls"] = str(calls)
        if watch is not None:
            order["watch"] = watch
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._last = Run(self._process, output)
        return self._last

    def run(self, *arguments: object, code: int = 0, calls: Path | None = None) -> str:
        """Does a run to its end, and returns what it printed."""
        run = self.start(*arguments, calls=calls)
        assert run.wait() == code, run.output
        return run.output

    def close(self) -> None:
        """Ends the process that starts them."""
        self._process.stdin.close()
        self._process.terminate()  # another fork may hold the pipe open
        self._process.wait(30)


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


def wait_until(condition, seconds: float = 300.0, poll: float = 0.001) -> None:  # noqa: ANN001
    """Waits for something to happen in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(poll)


def weights_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns a segmenter's weights."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name: value.numpy() for name, value in state.items()}
