"""Adapts the networks of mmsegmentation's configs to pseudo masks, and names their licences."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from pipeline.errors import UserError, did_you_mean, shown
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.settings import GUIDED, SegmenterSettings, side_divisor

if TYPE_CHECKING:
    from pipeline.clip.image_tower import ImageTower

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
    base: Config,
    settings: SegmenterSettings,
    num_classes: int,
    *,
    synchronise: bool = False,
    tower: "ImageTower | None" = None,
) -> ConfigDict:
    """Returns a config's ``model``, adapted to our classes, to its devices and to whole images.

    Args:
        base: a config of mmsegmentation; its model is changed in place.
        settings: how the network differs from the config's.
        num_classes: the number of classes, including the background.
        synchronise: whether batch norm is synchronised over several GPUs.
        tower: a frozen vision transformer, as the backbone; none for other networks, and timm's.

    Raises:
        UserError: the config has no model, or the model learns from unlabelled pixels.
    """
    if "backbone" not in base.get("model", {}):
        raise UserError(
            f"segmenter.config={settings.config} has no network with a backbone: choose another"
            " segmenter.config"
        )
    patch_size, statistics = choose_backbone(base.model, settings, tower)
    if statistics:  # of the images that the backbone was trained on
        base.model.data_preprocessor.mean = [255 * value for value in statistics.mean]
        base.model.data_preprocessor.std = [255 * value for value in statistics.std]
    try:
        base.merge_from_dict({"model": deepcopy(settings.overrides)})  # it takes out _delete_
    except MISFITS as error:
        raise UserError(
            f"segmenter.overrides do not fit segmenter.config={settings.config}"
            f" ({first_line(error)}): correct them"
        ) from error
    model = base.model
    model.setdefault("data_preprocessor", ConfigDict(base.get("data_preprocessor", {})))
    _set_sizes(model, settings, patch_size)
    for part in dictionaries(model):
        if part.get("type") in ("BN", "SyncBN", "MMSyncBN"):
            part.type = "SyncBN" if synchronise else "BN"
        if part.get("type") in _REFUSED:
            raise UserError(
                f"segmenter.config={settings.config} uses {part.type}, which"
                f" {_REFUSED[part.type]}: choose another segmenter.config"
            )
    for head in heads_of(model):
        _learn_classes(head, num_classes)
    return model


def _set_sizes(model: ConfigDict, settings: SegmenterSettings, patch_size: int | None) -> None:
    """Sets the size of crops, what other images are padded to, and that they are not cut."""
    model.data_preprocessor.size = (settings.crop_size, settings.crop_size)
    needed = side_divisor(patch_size, settings.decoder)
    needed = needed or _SIZE_DIVISORS.get(model.backbone.get("type"))
    divisor = settings.size_divisor or needed
    if needed and divisor % needed:
        raise UserError(
            f"segmenter.size_divisor={divisor} is not a multiple of {needed}, as this backbone"
            f" requires: give {needed}, or leave it out"
        )
    if divisor:
        model.data_preprocessor.test_cfg = ConfigDict(size_divisor=divisor)
    # Some networks keep other settings here (PointRend's refinement).
    kept = {k: v for k, v in (model.get("test_cfg") or {}).items() if k not in _SLIDING_WINDOW}
    patches = [patch_size, settings.most_patches] if settings.decoder else None
    model.test_cfg = ConfigDict(kept, mode="whole", limits={"patches": patches})


def _learn_classes(head: ConfigDict, num_classes: int) -> None:
    """Gives a head our classes, and has its losses leave unlabelled pixels out."""
    kinds = [str(part.get("type")) for part in dictionaries(head)]
    if not any(kind.endswith(("Loss", "CrossEntropy")) for kind in kinds):
        head.loss_decode = ConfigDict(type="CrossEntropyLoss")  # as by default
    for part in dictionaries(head):
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


def choose_backbone(
    model: ConfigDict, settings: SegmenterSettings, tower: "ImageTower | None"
) -> tuple[int | None, Any]:
    """Replaces the backbone of a config by the one that the settings choose, if they choose one.

    Returns the patch size of a vision transformer, and how images were normalised when its weights
    were trained; none where the config's own backbone stays, or nothing is known. Raises a
    UserError as :func:`use_timm_backbone`, and for ``enlarge`` without a tower.
    """
    if tower is not None:
        from pipeline.segmenter.frozen_tower import describe

        backbone = {"type": "FrozenTower", "tower": describe(tower)}
        backbone["enlarge"] = float(settings.enlarge)
        width = len(tower.class_token)
        read_tokens(model, backbone, len(tower.blocks), width, settings.decoder)
        return tower.patch_size, tower.normalisation
    if settings.enlarge != "1":
        raise UserError(
            "segmenter.enlarge is for segmenter=frozen_clip, and for frozen_vit with a second"
            " backbone: leave it out"
        )
    if not settings.backbone:
        return None, None
    statistics = use_timm_backbone(model, settings.backbone, settings.decoder)
    return timm_maps(settings.backbone).patch_size, statistics


def read_tokens(
    model: ConfigDict, backbone: Mapping[str, Any], depth: int, width: int, decoder: str
) -> None:
    """Replaces a network by a vision transformer and a decoder of the tokens of its blocks."""
    read = {"tokens": range(depth), "weclip": range(depth - 1), "linear": [depth - 1]}[decoder]
    model.backbone = ConfigDict(backbone, out_indices=[*read])
    head = {name: model.decode_head[name] for name in ("num_classes", "loss_decode", "norm_cfg")}
    head |= {"type": f"{decoder.capitalize()}Head", "in_channels": [width] * len(read)}
    model.decode_head = ConfigDict(head, in_index=[*range(len(read))], align_corners=False)
    model.auxiliary_head = None
    if decoder == GUIDED:
        model.type = "GuidedEncoderDecoder"


class TimmMaps(NamedTuple):
    """What timm says of the feature maps of a network.

    Attributes:
        described: timm's ``FeatureInfo``.
        patch_size: of a vision transformer, whose maps are all of one size; none for others.
        options: those that make it accept images of any size.
    """

    described: Any
    patch_size: int | None
    options: dict[str, Any]


@cache
def timm_maps(name: str) -> TimmMaps:
    """Describes the feature maps of a network of timm.

    Raises a UserError if timm does not know the name, or its network returns no feature maps.
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
            strides, options = {each["reduction"] for each in maps.info}, {}
            if is_vit := len(strides) == 1 and len(maps.info) > 1:
                with suppress(TypeError):  # of those whose positions fit a single size
                    timm.create_model(name, features_only=True, dynamic_img_size=True)
                    options = {"dynamic_img_size": True}
    except MISFITS as error:
        raise UserError(
            f"segmenter.backbone={name} returns no feature maps ({first_line(error)}):"
            " choose another, such as convnext_tiny"
        ) from error
    return TimmMaps(maps, strides.pop() if is_vit else None, options)


def use_timm_backbone(model: ConfigDict, name: str, decoder: str | None) -> Any:  # noqa: ANN401
    """Replaces the backbone of a config by a network of timm, such as "convnext_tiny".

    The heads, which must read several feature maps (as UPerNet's do), read its last ones, four at
    most; a decoder reads the tokens of all blocks of a vision transformer. Returns how images were
    normalised when its weights were trained, if timm has some. Raises a UserError as
    :func:`timm_maps`, and for a decoder of another network.
    """
    import timm

    maps, patch_size, options = timm_maps(name)
    backbone = {"type": "TIMMBackbone", "model_name": name, "pretrained": False, **options}
    if decoder and patch_size is None:
        raise UserError(
            f"segmenter.backbone={name} is not a vision transformer, whose tokens"
            f" segmenter.decoder={decoder} reads: choose one, such as dinov2_vitb14_reg"
        )
    if decoder:
        read_tokens(model, backbone, len(maps.info), maps.info[0]["num_chs"], decoder)
    else:
        levels = list(maps.out_indices)[-4:]
        channels = [maps.info[level]["num_chs"] for level in levels]
        model.backbone = ConfigDict(backbone, out_indices=tuple(levels))
        head = model.decode_head
        head.in_channels, head.in_index = channels, list(range(len(levels)))
        if model.get("auxiliary_head"):
            position = max(len(levels) - 2, 0)
            model.auxiliary_head.in_channels = channels[position]
            model.auxiliary_head.in_index = position
    return timm.get_pretrained_cfg(name)


def smallest_side(model: nn.Module, divisor: int = 1) -> int:
    """Returns the side in pixels, a multiple of a divisor, to which smaller images are padded.

    It is tried out: SegFormer's attention reduces its keys by convolutions that must fit into the
    image, and ConvNeXt its feature maps. The model is put into evaluation mode.
    """
    sides = (divisor * 2**doublings for doublings in range(8))
    return next((side for side in sides if not _refusal(model, side, side)), 1)


def check_sizes(model: nn.Module, settings: SegmenterSettings) -> None:
    """Refuses a vision transformer of timm that does not take crops, or images of other sizes."""
    is_timms = settings.backbone and type(model.backbone).__name__ == "TIMMBackbone"
    if not is_timms or (patch_size := timm_maps(settings.backbone).patch_size) is None:
        return
    described, side = deepcopy(model).to("meta"), settings.crop_size
    more = side_divisor(patch_size, settings.decoder)
    for size in ((side, side), (side + more, side + 3 * more)):
        if why := _refusal(described, *size):
            raise UserError(
                f"segmenter.backbone={settings.backbone} does not take images of"
                f" {'×'.join(map(str, size))} pixels ({why}): choose another, such as"
                " dinov2_vitb14_reg"
            )


@torch.no_grad()
def _refusal(model: nn.Module, *size: int) -> str:
    """Returns why a model does not take images of a height and a width, or nothing."""
    meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
    device = next(model.eval().parameters()).device
    try:
        model.encode_decode(torch.zeros(1, 3, *size, device=device), [meta])
    except MISFITS as error:
        return first_line(error)
    return ""


def heads_of(model: nn.Module | ConfigDict) -> list[Any]:
    """Returns the decode heads and then the auxiliary heads of a network or of its config."""
    heads = []
    for name in ("decode_head", "auxiliary_head"):
        if part := getattr(model, name, None):
            heads += part if isinstance(part, list | tuple | nn.ModuleList) else [part]
    return heads


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
    "dinov3": "DINOv3's licence also binds weights that are trained from it: docs/licences.md",
}
"""Part of a name in a config of mmsegmentation → a sentence without its full stop."""


def licence_notes(model: Mapping[str, Any]) -> list[str]:
    """Returns what to know of a network's licences, from the ``model`` part of a config."""
    parts = [*dictionaries(model)]
    names = [str(part.get(key)) for part in parts for key in ("type", "model_name")]
    names += ["dinov3" for part in parts if part.get("periods")]  # of rotary positions
    return [note for part, note in RESTRICTED.items() if any(part in name for name in names)]
