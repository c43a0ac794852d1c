"""Hooks that run around each iteration of a training."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pipeline.errors import UserError


class SeedIteration(Hook):
    """Seeds dropout, and whatever else is random in a network, by (seed, iteration).

    mmengine does not restore random states when it resumes.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping[str, Any] | None = None
    ) -> None:
        """Seeds PyTorch, NumPy and Python."""
        # The leading 1 makes these streams differ from those of the samples.
        rank = [runner.rank] if runner.rank else []
        sequence = np.random.SeedSequence([1, self._seed, runner.iter, *rank])
        state = sequence.generate_state(4)
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        np.random.seed(state)
        random.seed(state.tobytes())


class StopAtNonFiniteLoss(Hook):
    """Ends a training at the first loss that is not finite, before the next checkpoint."""

    priority = "VERY_HIGH"

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Checks the sum of all losses.

        Raises:
            UserError: it is infinite or not a number.
        """
        loss = outputs["loss"].item()
        if not np.isfinite(loss):
            ids = [str(sample.metainfo.get("img_id")) for sample in data_batch["data_samples"]]
            raise UserError(
                f"the loss became {loss} at iteration {runner.iter + 1} (images {', '.join(ids)}):"
                " lower segmenter.learning_rate and start again"
            )


class DescribeCheckpoint(Hook):
    """Makes checkpoints self-contained, with tensors and plain values only."""

    priority = "LOWEST"

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = dict(description)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds the description and removes the curves.

        mmengine pickles curves with references to methods, which ``torch.load`` refuses. Curves are
        in the log and need not be resumed.
        """
        checkpoint["meta"]["segmenter"] = self._description
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = {}
        hub["runtime_info"] = {
            key: value
            # NumPy scalars, such as the best figure so far, become Python numbers.
            for key, value in map(_plain, hub["runtime_info"].items())
            if type(value) in (str, int, float, list)
        }
        hub["resumed_keys"] = {
            key: value for key, value in hub["resumed_keys"].items() if key in hub["runtime_info"]
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Removes the entry that mmengine would run as Python code."""
        checkpoint["meta"].pop("config", None)


def _plain(item: tuple[str, Any]) -> tuple[str, Any]:
    key, value = item
    return key, value.item() if isinstance(value, np.generic) else value


class ValidateWhereInterrupted(Hook):
    """Measures the checkpoint from which a training resumes, if a measurement was due.

    Checkpoints are written before they are measured. A kill in between would lose the figure, and
    perhaps the best checkpoint.
    """

    priority = "LOWEST"

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def before_train(self, runner: Runner) -> None:
        """Validates if the last iteration was a multiple of the interval."""
        if runner.iter and runner.iter % self._interval == 0:
            runner.val_loop.run()


class ReportProgress(Hook):
    """Calls ``on_iteration(iteration, total, loss)`` after each iteration, counting from 1."""

    priority = "LOWEST"

    def __init__(self, on_iteration: Callable[[int, int, float], None]) -> None:
        self._on_iteration = on_iteration

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Reports the iteration, after its checkpoint is written."""
        self._on_iteration(runner.iter + 1, runner.max_iters, outputs["loss"].item())
