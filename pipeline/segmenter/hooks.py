"""What happens around every iteration of a training."""

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
    """Seeds dropout and all else that is random in a network by (seed, iteration).

    mmengine restores no random state when it resumes.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping[str, Any] | None = None
    ) -> None:
        """Seeds PyTorch, NumPy and Python."""
        # The leading 1 keeps these streams apart from those of the samples.
        rank = [runner.rank] if runner.rank else []
        sequence = np.random.SeedSequence([1, self._seed, runner.iter, *rank])
        state = sequence.generate_state(4)
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        np.random.seed(state)
        random.seed(state.tobytes())


class StopAtNonFiniteLoss(Hook):
    """Ends a training at the first loss that is not finite, before a checkpoint holds it."""

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
    """Makes checkpoints self-contained and free of anything but tensors and plain values."""

    priority = "LOWEST"

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = dict(description)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds the description, drops the curves.

        mmengine pickles its curves with references to methods, which ``torch.load`` refuses with
        good reason. They are in the log and need not be resumed.
        """
        checkpoint["meta"]["segmenter"] = self._description
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = {}
        hub["runtime_info"] = {
            key: value
            # NumPy's numbers, such as the best figure so far, become Python's own.
            for key, value in map(_plain, hub["runtime_info"].items())
            if type(value) in (str, int, float, list)
        }
        hub["resumed_keys"] = {
            key: value for key, value in hub["resumed_keys"].items() if key in hub["runtime_info"]
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Drops the entry that mmengine would run as Python code."""
        checkpoint["meta"].pop("config", None)


def _plain(item: tuple[str, Any]) -> tuple[str, Any]:
    key, value = item
    return key, value.item() if isinstance(value, np.generic) else value


class ValidateWhereInterrupted(Hook):
    """Measures the checkpoint that a training is resumed from, where that was due.

    Checkpoints are written before they are measured, so that a kill between the two would lose the
    figure, and perhaps the best checkpoint.
    """

    priority = "LOWEST"

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def before_train(self, runner: Runner) -> None:
        """Validates if the last iteration was one to validate after."""
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
        """Comes after the checkpoint of the same iteration."""
        self._on_iteration(runner.iter + 1, runner.max_iters, outputs["loss"].item())
