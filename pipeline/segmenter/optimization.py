"""Optimiser, learning rate schedule, mixed precision and gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, OPTIM_WRAPPERS
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from pipeline.errors import UserError
from pipeline.segmenter.settings import SegmenterSettings

_WITH_MOMENTUM = frozenset({"SGD", "RMSprop"})
_KEPT_FROM_CONFIG = ("paramwise_cfg", "constructor", "clip_grad")


def configure_optimizer(base: Config, settings: SegmenterSettings) -> dict[str, Any]:
    """Returns mmengine's ``optim_wrapper``.

    Args:
        base: a config of mmsegmentation. Its rules for parts of the network (such as no decay of
            position embeddings) are kept, and its optimiser if ``settings.optimizer`` is none.
        settings: of these optimiser, rates, decay, parameter_rules, accumulate and precision.

    Raises:
        UserError: neither the config nor the settings name an optimiser and a learning rate.
    """
    given = base.get("optim_wrapper", {})
    optimizer = dict(given.get("optimizer", {}))
    if settings.optimizer is not None:
        optimizer = {"type": settings.optimizer}
        if settings.optimizer in _WITH_MOMENTUM:
            optimizer["momentum"] = settings.momentum
    rate = settings.learning_rate
    if settings.starts_from_scratch and settings.learning_rate_from_scratch is not None:
        rate = settings.learning_rate_from_scratch
    if rate is not None:
        optimizer["lr"] = rate
    if settings.weight_decay is not None:
        optimizer["weight_decay"] = settings.weight_decay
    if "lr" not in optimizer or "type" not in optimizer:
        raise UserError(
            f"segmenter.config={settings.config} names no optimiser: give segmenter.optimizer"
            " and segmenter.learning_rate"
        )
    wrapper = {
        "type": _WRAPPERS[settings.precision],
        "optimizer": optimizer,
        "accumulative_counts": settings.accumulate,
        **{key: given[key] for key in _KEPT_FROM_CONFIG if key in given},
    }
    if settings.precision == "fp16":
        wrapper |= {"dtype": "float16", "loss_scale": "dynamic"}
    rules = Config({"rules": dict(wrapper.get("paramwise_cfg") or {})})
    rules.merge_from_dict({"rules": settings.parameter_rules})
    return wrapper | ({"paramwise_cfg": rules.rules} if rules.rules else {})


def configure_schedule(settings: SegmenterSettings, learning_rate: float) -> list[dict[str, Any]]:
    """Returns the "poly" schedule of DeepLab (Chen et al., TPAMI 2018) after a linear warm-up.

    Args:
        settings: of these iterations, power, warmup_iterations and minimum_learning_rate.
        learning_rate: the initial rate.
    """
    iterations = settings.iterations
    warmup = min(settings.warmup_iterations, iterations // 10)
    poly = {
        "type": "PolyLR",
        "power": settings.power,
        "eta_min": settings.minimum_learning_rate * learning_rate,
        "begin": warmup,
        "end": iterations,
        "by_epoch": False,
    }
    if not warmup:
        return [poly]
    rise = {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warmup, "by_epoch": False}
    return [rise, poly]


@OPTIM_WRAPPERS.register_module()
class BrainFloatOptimWrapper(OptimWrapper):
    """Mixed precision in bf16, on a GPU or a CPU.

    mmengine's own wrapper needs a GPU and scales losses, which bf16 does not require.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Runs the forward pass under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


_WRAPPERS = {
    "fp32": "OptimWrapper",
    "bf16": BrainFloatOptimWrapper.__name__,
    "fp16": "AmpOptimWrapper",
}


@LOOPS.register_module()
class BatchInPartsLoop(IterBasedTrainLoop):
    """Counts one iteration for each step of the optimiser, however many parts a batch has.

    mmengine counts each part, so that schedule, checkpoints and ``iterations`` would depend on how
    a batch is split.
    """

    def run(self) -> nn.Module:
        """Trains to the last iteration."""
        wrapper = self.runner.optim_wrapper
        parts = wrapper._accumulative_counts
        wrapper.initialize_count_status(
            self.runner.model, self.iter * parts, self.max_iters * parts
        )
        return super().run()

    def run_iter(self, data_batch: Mapping[str, list]) -> None:
        """Makes one step on a batch; losses are means over the parts."""
        self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
        wrapper = self.runner.optim_wrapper
        count = wrapper._accumulative_counts
        size = len(data_batch["inputs"]) // count
        sums: dict[str, torch.Tensor] = {}
        for start in range(0, size * count, size):
            part = {key: values[start : start + size] for key, values in data_batch.items()}
            losses = self.runner.model.train_step(part, optim_wrapper=wrapper)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value
        outputs = {name: total / count for name, total in sums.items()}
        self.runner.call_hook(
            "after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1
