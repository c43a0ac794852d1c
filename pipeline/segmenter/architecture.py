"""Fits the networks in mmsegmentation's configs to pseudo masks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from pipeline.errors import UserError
from pipeline.vocabulary import IGNORE

# Heads and losses that let pixels under label 255 count; mmsegmentation offers no way to mask them.
_COUNT_IGNORED_PIXELS = frozenset({"DiceLoss", "STDCHead"})
# Backbones that reject sizes that are no multiple of their stride instead of padding themselves.
_SIZE_DIVISORS = {"UNet": 16}


def adapt_model(base: Config, settings: Mapping[str, Any], labels: int) -> ConfigDict:
    """Fits a network to our classes, one device and local weights.

    Args:
        base: a config of mmsegmentation; its model is changed in place.
        settings: config, crop_size; optional overrides, pretrained, size_divisor.
        labels: classes with the background.

    Returns:
        The model's part of the config.

    Raises:
        UserError: there is no model, it learns from unlabelled pixels, or ``pretrained`` is no
            file.
    """
    if "backbone" not in base.get("model", {}):
        raise UserError(
            f"segmenter.config={settings['config']} describes no network with a backbone: choose"
            " another segmenter.config"
        )
    try:
        base.merge_from_dict({"model": dict(settings.get("overrides") or {})})
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"segmenter.overrides do not fit segmenter.config={settings['config']}"
            f" ({str(error).splitlines()[0]}): correct them"
        ) from error
    model = base.model
    crop = settings["crop_size"]
    model.setdefault("data_preprocessor", ConfigDict(base.get("data_preprocessor", {})))
    model.data_preprocessor.size = (crop, crop)
    divisor = settings.get("size_divisor") or _SIZE_DIVISORS.get(model.backbone.get("type"))
    if divisor:
        model.data_preprocessor.test_cfg = ConfigDict(size_divisor=divisor)
    model.test_cfg = ConfigDict(mode="whole")
    for part in dictionaries(model):
        if part.get("type") in ("SyncBN", "MMSyncBN"):
            part.type = "BN"  # one device: there is nothing to synchronise with
        if part.get("type") in _COUNT_IGNORED_PIXELS:
            raise UserError(
                f"segmenter.config={settings['config']} uses {part.type}, which would learn from"
                " unlabelled pixels: choose another segmenter.config"
            )
    for name in ("decode_head", "auxiliary_head"):
        _adapt_heads(model.get(name), labels)
    _adapt_weights(model, settings.get("pretrained"))
    return model


def check_pretrained(backbone: nn.Module, path: Path) -> None:
    """Checks that a weights file fits; mmengine would skip what does not and start from nothing.

    Args:
        backbone: the network's backbone.
        path: a file of ``torch.save`` with tensors under the backbone's own names.

    Raises:
        UserError: the file cannot be read, or fewer than half of the backbone's tensors are in it.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        own = backbone.state_dict()
        fitting = [
            name
            for name, value in own.items()
            if getattr(stored.get(name), "shape", 0) == value.shape
        ]
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, AttributeError) as error:
        raise UserError(
            f"segmenter.pretrained={path} is damaged or holds more than weights: choose another"
            " file"
        ) from error
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"segmenter.pretrained={path} has {len(fitting)} of the {len(own)} tensors of the"
            " backbone: choose the weights of the same architecture"
        )


def _adapt_heads(heads: Any, labels: int) -> None:  # noqa: ANN401
    for part in dictionaries(heads):
        if "num_classes" in part:
            part.num_classes = labels
            part.ignore_index = IGNORE
            part.pop("out_channels", None)  # given only for single-channel binary heads
        if part.get("type") == "CrossEntropyLoss":
            # Otherwise ignored pixels still count in the denominator of the mean.
            part.avg_non_ignore = True
            # Weights of the classes of the data set that the config was written for.
            part.pop("class_weight", None)


def _adapt_weights(model: ConfigDict, pretrained: str | None) -> None:
    """Replaces weights from the network by none or by a local file."""
    for part in dictionaries(model):
        if "pretrained" in part:
            part.pretrained = False if "TIMMBackbone" in str(part.get("type")) else None
        if _is_download(part.get("init_cfg")):
            part.init_cfg = None
    if pretrained is None:
        return
    if not Path(pretrained).is_file():
        raise UserError(
            f"segmenter.pretrained={pretrained} does not exist: give the path of a weights file,"
            " or null to start from random weights"
        )
    model.backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=str(pretrained))


def _is_download(init_cfg: Any) -> bool:  # noqa: ANN401
    return any(part.get("type") == "Pretrained" for part in dictionaries(init_cfg))


def dictionaries(value: Any) -> Iterator[ConfigDict]:  # noqa: ANN401
    """Yields every dictionary in a nested structure, the outermost first."""
    if isinstance(value, Mapping):
        yield value
        for key in list(value):
            yield from dictionaries(value.get(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from dictionaries(item)
