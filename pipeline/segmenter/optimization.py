"""Optimiser, learning rate schedule, mixed precision, and how a network lies in memory."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from pipeline.clip.device import is_cpu
from pipeline.errors import UserError, check_choice, shown
from pipeline.segmenter.architecture import heads_of
from pipeline.segmenter.settings import SegmenterSettings

_KEPT_FROM_CONFIG = ("paramwise_cfg", "constructor", "clip_grad")


def configure_optimizer(base: Config, settings: SegmenterSettings, device: str) -> dict[str, Any]:
    """Returns mmengine's ``optim_wrapper`` for a training on a device.

    Rules for parts of the network (such as no decay of position embeddings) are kept from the
    config of mmsegmentation, and its optimiser if ``settings.optimizer`` is none. Raises a
    UserError if neither names an optimiser and a learning rate, or the settings name one that is
    not registered; mmengine would import it.
    """
    given = base.get("optim_wrapper", {})
    optimizer = dict(given.get("optimizer", {}))
    if settings.optimizer is not None:
        wrong = f"segmenter.optimizer={shown(settings.optimizer)} is unknown"
        check_choice(wrong, settings.optimizer, OPTIMIZERS.module_dict)
        optimizer = {"type": settings.optimizer}
        if settings.optimizer in ("SGD", "RMSprop"):
            optimizer["momentum"] = settings.momentum
    rate = settings.learning_rate
    if settings.starts_from_scratch and settings.learning_rate_from_scratch is not None:
        rate = settings.learning_rate_from_scratch
    chosen = {"lr": rate, "weight_decay": settings.weight_decay}
    optimizer |= {name: value for name, value in chosen.items() if value is not None}
    if "lr" not in optimizer or "type" not in optimizer:
        raise UserError(
            f"segmenter.config={settings.config} names no optimiser: give segmenter.optimizer"
            " and segmenter.learning_rate"
        )
    wrapper = {
        **_WRAPPERS[settings.precision],
        "optimizer": optimizer,
        "accumulative_counts": settings.accumulate,
        **{key: given[key] for key in _KEPT_FROM_CONFIG if key in given},
    }
    takes = inspect.signature(OPTIMIZERS.get(optimizer["type"])).parameters
    if is_cpu(device) and "fused" in takes and not optimizer.get("foreach"):
        optimizer.setdefault("fused", True)  # reads the weights from memory once a step
    rules = Config({"rules": dict(wrapper.get("paramwise_cfg") or {})})
    rules.merge_from_dict({"rules": settings.parameter_rules})
    return wrapper | ({"paramwise_cfg": rules.rules} if rules.rules else {})


def configure_schedule(settings: SegmenterSettings, learning_rate: float) -> list[dict[str, Any]]:
    """Returns the "poly" schedule of DeepLab (Chen et al., TPAMI 2018) after a linear warm-up."""
    warmup = settings.warmup
    poly = {
        "type": "PolyLR",
        "power": settings.power,
        "eta_min": settings.minimum_learning_rate * learning_rate,
        "begin": warmup,
        "end": settings.iterations,
        "by_epoch": False,
    }
    if not warmup:
        return [poly]
    rise = {"type": "LinearLR", "start_factor": 1e-3, "begin": 0, "end": warmup, "by_epoch": False}
    return [rise, poly]


def arrange_for_cpu(model: nn.Module) -> None:
    """Arranges a network in memory so that a CPU trains it faster.

    Convolutions and batch norms take their features with the channels last. The logits become
    float32 with the classes first again, since resizing and softmax are slower otherwise.
    """
    model.to(memory_format=torch.channels_last)
    for head in heads_of(model):
        if isinstance(getattr(head, "conv_seg", None), nn.Conv2d):
            head.conv_seg.register_forward_hook(lambda _, __, logits: logits.float().contiguous())


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
    "fp32": {"type": "OptimWrapper"},
    "bf16": {"type": BrainFloatOptimWrapper.__name__},
    "fp16": {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic"},
}
