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
        sequence = np.random.SeedSequence([1, self._seed, runner.iter])
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
            for key, value in hub["runtime_info"].items()
            if type(value) in (str, int, float, list)  # NumPy's floats are instances of float
        }
        hub["resumed_keys"] = {
            key: value for key, value in hub["resumed_keys"].items() if key in hub["runtime_info"]
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Drops the entry that mmengine would run as Python code."""
        checkpoint["meta"].pop("config", None)


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
