"""Imports mmsegmentation, of either family, and builds its configs and networks."""

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, TASK_UTILS, WEIGHT_INITIALIZERS, DefaultScope
from torch import nn

from pipeline.clip.device import settle_precision
from pipeline.errors import UserError, did_you_mean, shown
from pipeline.files.fingerprints import fingerprint
from pipeline.segmenter.architecture import MISFITS, adapt_model, dictionaries, first_line
from pipeline.segmenter.openmmlab import importable, provide_timm, shipped
from pipeline.segmenter.optimization import configure_optimizer, configure_schedule
from pipeline.segmenter.pretrained import check_pretrained, strip_pretrained
from pipeline.segmenter.settings import SegmenterSettings

if TYPE_CHECKING:
    from pipeline.clip.image_tower import ImageTower

# Ours, with open_clip.
_ON_TOKENS = {"FrozenTower", "GuidedEncoderDecoder", "TokensHead", "WeclipHead", "LinearHead"}
_AVERAGED_GRADIENTS = {
    "type": "MMDistributedDataParallel",
    "device_ids": None,  # the model is already on its device; a CPU has no id
    "broadcast_buffers": False,
    # Some backbones of timm end in layers that no feature map uses.
    "find_unused_parameters": True,
}


def import_mmseg() -> None:
    """Imports mmsegmentation, or raises a UserError; mmengine finds it in the scope ``mmseg``."""
    try:
        with importable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("models", "datasets", "evaluation", "engine", "visualization"):
                importlib.import_module(f"mmseg.{name}")
            import pipeline.segmenter.heads  # noqa: F401  registers ours
    except ImportError as error:
        raise UserError(
            f"mmsegmentation cannot be imported ({error}): install mmsegmentation or"
            " onedl-mmsegmentation with what belongs to it, see docs/segmenters.md"
        ) from error


in_mmseg = partial(DefaultScope.overwrite_default_scope, "mmseg")
"""Returns a context in which mmengine looks in mmsegmentation first; its own choice is restored."""


def find_config(name: str) -> Path:
    """Finds a config file by its path inside mmsegmentation, or by an absolute path.

    Such a file is a Python program that runs when it is read, so only installed configs and
    absolute paths are allowed. mmengine also reads YAML, which can run code, and JSON, which can
    import modules. Raises a UserError for both, and with the nearest for a file that is not there.
    """
    wrong = f"segmenter.config={shown(name)} is not a config of mmsegmentation"
    if Path(name).suffix != ".py":
        raise UserError(f"{wrong}: give one of its files, which end in .py")
    if Path(name).is_absolute():
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"segmenter.config={name} does not exist: give the path of a config file")
    root = shipped("configs")
    if ".." not in Path(name).parts and (root / name).is_file():
        return root / name
    known = [path.relative_to(root).as_posix() for path in root.glob("*/*.py")]
    raise UserError(f"{wrong}: {did_you_mean(name, known)}give a path below {root}")


def load_config(name: str) -> Config:
    """Reads a config with all that it inherits from, or raises a UserError: :func:`find_config`."""
    try:
        return Config.fromfile(find_config(name))
    except (ImportError, KeyError, SyntaxError, OSError) as error:
        raise UserError(
            f"segmenter.config={name} cannot be read ({first_line(error)}): install what it needs"
            " or choose another segmenter.config"
        ) from error


def fingerprint_config(name: str) -> str:
    """Returns the fingerprint of what a config holds; raises as :func:`load_config` does."""

    def name_of(value: object) -> str:  # a class or function, which JSON cannot hold
        return getattr(value, "__qualname__", type(value).__qualname__)

    return fingerprint(json.dumps(load_config(name).to_dict(), default=name_of))


def build_config(
    settings: SegmenterSettings,
    class_names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    seed: int,
    device: str = "cpu",
    processes: int = 1,
    tower: "ImageTower | None" = None,
) -> Config:
    """Builds the configuration of one training from a config of mmsegmentation.

    The arguments are those of :func:`pipeline.segmenter.train.train`, the number of processes that
    train together, each on a part of every batch, and the tower of a frozen vision transformer.

    Returns a config of model, optimiser and schedule, with ``class_names`` and ``palette`` (both
    with the background first), the settings, and ``pretrained_source``, the place from which
    mmsegmentation takes the backbone's ImageNet weights. It contains no data. Raises a UserError if
    the config does not exist or cannot be used, or settings do not fit together.
    """
    import_mmseg()
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise UserError(
            f"segmenter.batch_size={settings.batch_size} cannot be divided into {parts} equal"
            " parts: choose a multiple of segmenter.accumulate times the number of processes"
        )
    check_pretrained(settings)
    precision = settle_precision(settings.precision, device, "segmenter.precision")
    settings = replace(settings, precision=precision)
    base = load_config(settings.config)
    synchronise = processes > 1 and torch.device(device).type == "cuda"
    model = adapt_model(base, settings, len(class_names) + 1, synchronise=synchronise, tower=tower)
    source = strip_pretrained(model)
    optimizer = configure_optimizer(base, settings, device)
    return Config(
        {
            "default_scope": "mmseg",
            "model": model,
            "pretrained_source": source,
            "optim_wrapper": optimizer,
            "param_scheduler": configure_schedule(settings, optimizer["optimizer"]["lr"]),
            "train_cfg": {
                "type": "BatchInPartsLoop",
                "max_iters": settings.iterations,
                "val_interval": settings.validation_interval or settings.iterations + 1,
            },
            "randomness": {"seed": seed},
            **({"model_wrapper_cfg": _AVERAGED_GRADIENTS} if processes > 1 else {}),
            "class_names": ["background", *class_names],
            "palette": [tuple(int(value) for value in colour) for colour in palette],
            "settings": asdict(settings),
        }
    )


def build_model(model: Mapping[str, Any]) -> nn.Module:
    """Builds the ``model`` of a config; a UserError if a module or package of it is missing."""
    import_mmseg()
    from mmseg.registry import MODELS as MMSEG_MODELS

    # Refuse names that are not in a registry: mmengine imports and calls any object by its dotted
    # name and imports whatever is given as a scope, so that a checkpoint could run code; timm
    # downloads networks whose name is an address.
    subject, remedy = "the segmenter's network", "choose another segmenter.config"
    registries = [MODELS, TASK_UTILS, WEIGHT_INITIALIZERS]
    registries += [child for root in registries for child in root.children.values()]
    if {str(part.get("type")) for part in dictionaries(model)} & _ON_TOKENS:
        from pipeline.segmenter import frozen_tower, token_heads  # noqa: F401  register; slow
    for part in dictionaries(model):
        if "_scope_" in part:
            raise UserError(f"{subject} has parts of {part['_scope_']}: {remedy}")
        if (name := part.get("type")) is None:
            continue
        scope, _, key = str(name).rpartition(".")
        if not any(key in r.module_dict and scope in ("", r.scope) for r in registries):
            raise UserError(f"{subject} needs {name}, which is in no installed package: {remedy}")
        network = str(part.get("model_name"))
        if key == "TIMMBackbone" and (":" in network or not provide_timm().is_model(network)):
            raise UserError(
                f"{subject} needs {network}, which timm does not have: choose another"
                " segmenter.backbone"
            )
    try:
        with warnings.catch_warnings(), in_mmseg():
            warnings.simplefilter("ignore")  # mmsegmentation calls deprecated functions of its own
            return MMSEG_MODELS.build(ConfigDict(model))
    except MISFITS as error:
        raise UserError(
            f"{subject} cannot be built ({first_line(error)}): {remedy} or correct"
            " segmenter.backbone or segmenter.overrides"
        ) from error
