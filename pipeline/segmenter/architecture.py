"""Adapts the networks of mmsegmentation's configs to pseudo masks, and names their licences."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from pipeline.errors import UserError, did_you_mean, shown
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.settings import SegmenterSettings

MISFITS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of mmengine and PyTorch for parts of a network that are missing or do not fit."""

_REFUSED = {
    # mmsegmentation cannot ignore pixels with label 255 in these.
    "DiceLoss": "would learn from unlabelled pixels",
    "STDCHead": "would learn from unlabelled pixels",
    "PIDHead": "needs edge maps in addition to masks",
    "BEiT": "takes images of a single size",
    "MAE": "takes images of a single size",
}
# Backbones that reject image sides that are not multiples of their stride.
_SIZE_DIVISORS = {"UNet": 16}
_SLIDING_WINDOW = frozenset({"mode", "crop_size", "stride"})  # unused: images are segmented whole


def adapt_model(
    base: Config, settings: SegmenterSettings, num_classes: int, *, synchronise: bool = False
) -> ConfigDict:
    """Returns a config's ``model``, adapted to our classes, to its devices and to whole images.

    Args:
        base: a config of mmsegmentation; its model is changed in place.
        settings: of these config, backbone, overrides, crop_size and size_divisor.
        num_classes: the number of classes, including the background.
        synchronise: whether batch norm is synchronised over several GPUs.

    Raises:
        UserError: the config has no model, or the model learns from unlabelled pixels.
    """
    if "backbone" not in base.get("model", {}):
        raise UserError(
            f"segmenter.config={settings.config} has no network with a backbone: choose another"
            " segmenter.config"
        )
    if settings.backbone:
        use_timm_backbone(base.model, settings.backbone)
    try:
        base.merge_from_dict({"model": deepcopy(settings.overrides)})  # it takes out _delete_
    except MISFITS as error:
        raise UserError(
            f"segmenter.overrides do not fit segmenter.config={settings.config}"
            f" ({first_line(error)}): correct them"
        ) from error
    model = base.model
    model.setdefault("data_preprocessor", ConfigDict(base.get("data_preprocessor", {})))
    model.data_preprocessor.size = (settings.crop_size, settings.crop_size)
    if divisor := settings.size_divisor or _SIZE_DIVISORS.get(model.backbone.get("type")):
        model.data_preprocessor.test_cfg = ConfigDict(size_divisor=divisor)
    # Some networks keep other settings here (PointRend's refinement).
    kept = {k: v for k, v in (model.get("test_cfg") or {}).items() if k not in _SLIDING_WINDOW}
    model.test_cfg = ConfigDict(kept, mode="whole")
    for part in dictionaries(model):
        if part.get("type") in ("BN", "SyncBN", "MMSyncBN"):
            part.type = "SyncBN" if synchronise else "BN"
        if part.get("type") in _REFUSED:
            raise UserError(
                f"segmenter.config={settings.config} uses {part.type}, which"
                f" {_REFUSED[part.type]}: choose another segmenter.config"
            )
    for part in dictionaries([model.get("decode_head"), model.get("auxiliary_head")]):
        if "num_classes" in part:
            part.num_classes = num_classes
            if part.get("type") != "KernelUpdateHead":  # which computes no loss from labels
                part.ignore_index = IGNORE
                part.pop("out_channels", None)  # only binary heads with one channel have it
        if part.get("type") == "CrossEntropyLoss":
            # The default mean divides by the number of all pixels, ignored ones included.
            part.avg_non_ignore = True
        # Class weights belong to the data set of the config.
        part.pop("class_weight", None)
    return model


def use_timm_backbone(model: ConfigDict, name: str) -> None:
    """Replaces the backbone of a config by a network of timm, such as "convnext_tiny".

    The heads, which must read several feature maps (as UPerNet's do), read its last ones, four at
    most. Images are normalised as they were when its weights were trained. Raises a UserError if
    timm has no such network, or the network returns no feature maps.
    """
    import timm  # takes seconds

    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UserError(
            f"segmenter.backbone={shown(name)} is not a network of timm: {hint}give a name that"
            " timm.list_models() returns"
        )
    try:
        with torch.device("meta"):  # no weights, only the description
            maps = timm.create_model(name, features_only=True).feature_info
    except MISFITS as error:
        raise UserError(
            f"segmenter.backbone={name} returns no feature maps ({first_line(error)}):"
            " choose another, such as convnext_tiny"
        ) from error
    levels = list(maps.out_indices)[-4:]
    channels = [maps.info[level]["num_chs"] for level in levels]
    model.backbone = ConfigDict(
        type="TIMMBackbone", model_name=name, pretrained=False, out_indices=tuple(levels)
    )
    model.decode_head.in_channels, model.decode_head.in_index = channels, list(range(len(levels)))
    if model.get("auxiliary_head"):
        position = max(len(levels) - 2, 0)
        model.auxiliary_head.in_channels = channels[position]
        model.auxiliary_head.in_index = position
    if statistics := timm.get_pretrained_cfg(name):
        model.data_preprocessor.mean = [255 * value for value in statistics.mean]
        model.data_preprocessor.std = [255 * value for value in statistics.std]


@torch.no_grad()
def smallest_side(model: nn.Module) -> int:
    """Returns the side, a power of two in pixels, to which smaller images have to be padded.

    It is tried out: SegFormer's attention reduces its keys by convolutions that must fit into the
    image, and ConvNeXt its feature maps. The model is put into evaluation mode.
    """
    device = next(model.eval().parameters()).device
    for side in (1, 2, 4, 8, 16, 32, 64, 128):
        size = (side, side)
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        with suppress(*MISFITS):
            model.encode_decode(torch.zeros(1, 3, *size, device=device), [meta])
            return side
    return 1


def dictionaries(value: object) -> Iterator[ConfigDict]:
    """Yields every dictionary of a nested structure, from the outside in."""
    if isinstance(value, Mapping):
        yield value
        for key in list(value):
            yield from dictionaries(value.get(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from dictionaries(item)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


RESTRICTED = {
    "SegformerHead": (
        "SegformerHead of mmsegmentation is under NVIDIA's licence of SegFormer, which allows"
        " research and evaluation, but no commercial use; docs/licences.md names heads without"
        " this restriction"
    ),
}
"""Class in a config of mmsegmentation → a sentence without its full stop."""


def licence_notes(model: Mapping[str, Any]) -> list[str]:
    """Returns what to know of a network's licences, from the ``model`` part of a config."""
    parts = {str(part.get("type")).rpartition(".")[2] for part in dictionaries(model)}
    return [note for part, note in RESTRICTED.items() if part in parts]
