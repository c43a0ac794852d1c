"""Fits the networks in mmsegmentation's configs to pseudo masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from pipeline.datasets.vocabulary import IGNORE
from pipeline.errors import UserError, did_you_mean

_REFUSED = {
    # mmsegmentation offers no way to mask pixels under label 255 for these.
    "DiceLoss": "would learn from unlabelled pixels",
    "STDCHead": "would learn from unlabelled pixels",
    "PIDHead": "needs maps of edges beside the masks",
    "BEiT": "takes images of a single size",
    "MAE": "takes images of a single size",
}
# Parts of heads that count classes, but compute no loss of their own from a label.
_INSIDE_HEADS = frozenset({"KernelUpdateHead"})
# Backbones that reject sizes that are no multiple of their stride instead of padding themselves.
_SIZE_DIVISORS = {"UNet": 16}
_BATCH_NORMS = frozenset({"BN", "SyncBN", "MMSyncBN"})
_OF_WINDOWS = frozenset({"mode", "crop_size", "stride"})  # images are segmented whole
_MOST_FEATURE_MAPS = 4  # that UPerNet and its like read


def adapt_model(
    base: Config, settings: Mapping[str, Any], labels: int, *, synchronise: bool = False
) -> ConfigDict:
    """Fits a network to our classes, one device and local weights.

    Args:
        base: a config of mmsegmentation; its model is changed in place.
        settings: config, crop_size; optional backbone, overrides, size_divisor.
        labels: classes with the background.
        synchronise: whether several GPUs train it, whose batch norms see one batch.

    Returns:
        The model's part of the config.

    Raises:
        UserError: there is no model, or it learns from unlabelled pixels.
    """
    if "backbone" not in base.get("model", {}):
        raise UserError(
            f"segmenter.config={settings['config']} describes no network with a backbone: choose"
            " another segmenter.config"
        )
    if settings.get("backbone"):
        use_timm_backbone(base.model, settings["backbone"])
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
    # Some networks have settings of their own there (PointRend's refinement).
    kept = {k: v for k, v in (model.get("test_cfg") or {}).items() if k not in _OF_WINDOWS}
    model.test_cfg = ConfigDict(kept, mode="whole")
    for part in dictionaries(model):
        if part.get("type") in _BATCH_NORMS:
            part.type = "SyncBN" if synchronise else "BN"
        if part.get("type") in _REFUSED:
            raise UserError(
                f"segmenter.config={settings['config']} uses {part.type}, which"
                f" {_REFUSED[part.type]}: choose another segmenter.config"
            )
    for name in ("decode_head", "auxiliary_head"):
        _adapt_heads(model.get(name), labels)
    return model


def use_timm_backbone(model: ConfigDict, name: str) -> None:
    """Puts a network of timm in the place of a config's backbone.

    The heads read the last (up to four) of its feature maps, and the images are normalised as its
    weights were trained.

    Args:
        model: a network whose heads read several feature maps, as UPerNet's; changed in place.
        name: of a network of timm, for example "convnext_tiny".

    Raises:
        UserError: timm knows no such network, or it gives no feature maps.
    """
    import timm

    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), count=3, cutoff=0).strip()
        raise UserError(f"segmenter.backbone={name} is not a network of timm: {hint}")
    try:
        with torch.device("meta"):  # for its description alone
            described = timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"segmenter.backbone={name} gives no feature maps ({str(error).splitlines()[0]}):"
            " choose another, as convnext_tiny"
        ) from error
    levels = list(described.feature_info.out_indices)[-_MOST_FEATURE_MAPS:]
    channels = [described.feature_info.info[level]["num_chs"] for level in levels]
    model.backbone = ConfigDict(
        type="TIMMBackbone", model_name=name, pretrained=False, out_indices=tuple(levels)
    )
    last = len(levels) - 1
    model.decode_head.in_channels, model.decode_head.in_index = channels, list(range(len(levels)))
    if model.get("auxiliary_head"):
        position = max(last - 1, 0)
        model.auxiliary_head.in_channels = channels[position]
        model.auxiliary_head.in_index = position
    statistics = timm.get_pretrained_cfg(name)
    if statistics is not None:
        model.data_preprocessor.mean = [255 * value for value in statistics.mean]
        model.data_preprocessor.std = [255 * value for value in statistics.std]


def _adapt_heads(heads: Any, labels: int) -> None:  # noqa: ANN401
    for part in dictionaries(heads):
        if "num_classes" in part:
            part.num_classes = labels
            if part.get("type") not in _INSIDE_HEADS:
                part.ignore_index = IGNORE
                part.pop("out_channels", None)  # given only for single-channel binary heads
        if part.get("type") == "CrossEntropyLoss":
            # Otherwise ignored pixels still count in the denominator of the mean.
            part.avg_non_ignore = True
        # Weights of the classes of the data set that the config was written for.
        part.pop("class_weight", None)


def dictionaries(value: Any) -> Iterator[ConfigDict]:  # noqa: ANN401
    """Yields every dictionary in a nested structure, the outermost first."""
    if isinstance(value, Mapping):
        yield value
        for key in list(value):
            yield from dictionaries(value.get(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from dictionaries(item)
