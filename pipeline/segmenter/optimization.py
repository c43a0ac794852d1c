"""How a segmenter's weights are moved: optimiser, schedule, precision, batches in parts."""

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

_WITH_MOMENTUM = frozenset({"SGD", "RMSprop"})
_OF_PARAMETERS = ("paramwise_cfg", "constructor", "clip_grad")


def starts_from_scratch(settings: Mapping[str, Any]) -> bool:
    """Tells whether no weights are given to start from."""
    return settings.get("pretrained") in (None, "none")


def choose_learning_rate(settings: Mapping[str, Any]) -> float | None:
    """Returns the learning rate: weights that are trained already want a smaller one.

    Returns:
        The rate; none where it is that of mmsegmentation's config.
    """
    rate = settings["learning_rate"]
    if starts_from_scratch(settings):
        rate = settings.get("learning_rate_from_scratch", rate)
    return None if rate is None else float(rate)


def configure_optimizer(
    base: Config, settings: Mapping[str, Any], *, mixed: str | None = None
) -> dict[str, Any]:
    """Returns mmengine's ``optim_wrapper``.

    Args:
        base: a config of mmsegmentation. Its rules for parts of the network are kept (say, no decay
            of position embeddings), and its optimiser where ours is null.
        settings: optimizer, learning_rate, weight_decay; optional momentum, parameter_rules,
            learning_rate_from_scratch, accumulate.
        mixed: "bf16" or "fp16" for mixed precision.

    Raises:
        UserError: there is no learning rate.
    """
    kept = base.get("optim_wrapper", {})
    own = dict(kept.get("optimizer", {}))
    rate, decay = choose_learning_rate(settings), settings["weight_decay"]
    name = settings["optimizer"]
    if name is not None:
        own = {"type": name}
        if name in _WITH_MOMENTUM:
            own["momentum"] = float(settings.get("momentum", 0.9))
    if rate is not None:
        own["lr"] = rate
    if decay is not None:
        own["weight_decay"] = float(decay)
    if "lr" not in own or "type" not in own:
        raise UserError(
            f"segmenter.config={settings['config']} names no optimiser: give segmenter.optimizer"
            " and segmenter.learning_rate"
        )
    wrapper = {
        "type": _WRAPPERS[mixed],
        "optimizer": own,
        "accumulative_counts": int(settings.get("accumulate") or 1),
        **{key: kept[key] for key in _OF_PARAMETERS if key in kept},
    }
    if mixed == "fp16":
        wrapper |= {"dtype": "float16", "loss_scale": "dynamic"}
    rules = Config({"rules": dict(wrapper.get("paramwise_cfg") or {})})
    rules.merge_from_dict({"rules": dict(settings.get("parameter_rules") or {})})
    return wrapper | ({"paramwise_cfg": rules.rules} if rules.rules else {})


def configure_schedule(settings: Mapping[str, Any], learning_rate: float) -> list[dict[str, Any]]:
    """Returns the "poly" schedule of the DeepLab papers, after an optional linear warm-up.

    Args:
        settings: iterations; optional power, warmup_iterations (at most a tenth of all are
            taken), minimum_learning_rate (a share).
        learning_rate: the rate that it begins with.
    """
    iterations = int(settings["iterations"])
    warmup = min(int(settings.get("warmup_iterations") or 0), iterations // 10)
    poly = {
        "type": "PolyLR",
        "power": float(settings.get("power", 0.9)),
        "eta_min": float(settings.get("minimum_learning_rate", 1e-4)) * learning_rate,
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

    mmengine's own wrapper takes GPUs only, and scales losses, which bf16 has no need of.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Runs the forward pass under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


_WRAPPERS = {
    None: "OptimWrapper",
    "bf16": BrainFloatOptimWrapper.__name__,
    "fp16": "AmpOptimWrapper",
}


@LOOPS.register_module()
class BatchInPartsLoop(IterBasedTrainLoop):
    """Counts an iteration for every step of the optimiser, in however many parts it is computed.

    mmengine would count every part, so that schedule, checkpoints and ``iterations`` would mean
    something else with every way of splitting a batch.
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
        """Does one step on a batch; losses are means over the parts."""
        self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
        wrapper = self.runner.optim_wrapper
        count = wrapper._accumulative_counts
        size = len(data_batch["inputs"]) // count
        sums: dict[str, torch.Tensor] = {}
        for start in range(0, size * count, size):
            part = {key: values[start : start + size] for key, values in data_batch.items()}
            found = self.runner.model.train_step(part, optim_wrapper=wrapper)
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value
        outputs = {name: total / count for name, total in sums.items()}
        self.runner.call_hook(
            "after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1
