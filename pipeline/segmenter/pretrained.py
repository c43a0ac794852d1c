"""The initial weights of a segmenter's backbone: from ImageNet, a file, or none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmengine.config import ConfigDict
from torch import nn

from pipeline.errors import UserError
from pipeline.files.text import given_path
from pipeline.files.weight_files import check_finite, refuse_quantised
from pipeline.segmenter.architecture import dictionaries
from pipeline.segmenter.settings import OF_CLIP, PUBLISHED, SegmenterSettings
from pipeline.segmenter.weight_layouts import Fit, fit_weights, quietly


def strip_pretrained(model: ConfigDict) -> str | None:
    """Removes all references to pretrained weights from the config of a model, in place.

    Returns the source of those of the backbone: a URL, a path, or a name like
    ``open-mmlab://resnet50_v1c``. A ``prefix`` beside it is ignored, because
    :func:`load_pretrained` finds it in the file.
    """
    sources = _strip(model.get("backbone"))
    if isinstance(model.get("pretrained"), str):  # the network passes it to its backbone
        sources.append(model["pretrained"])
    _strip(model)
    return sources[0] if sources else None


def check_pretrained(settings: SegmenterSettings) -> None:
    """Refuses a ``segmenter.pretrained`` that is neither a word for such a network nor a file."""
    choice = "none" if settings.pretrained is None else settings.pretrained
    words = ["imagenet", "none"]
    if settings.decoder:
        words = [PUBLISHED if settings.backbone else OF_CLIP]
    takes_file, words = words != [OF_CLIP], words[: 1 if settings.freeze else 2]
    if choice in words or (takes_file and given_path(choice, "segmenter.pretrained").is_file()):
        return
    raise UserError(
        f"segmenter.pretrained={choice} is not what this backbone can start from: give"
        f" {', '.join(words)}{', or the path of a weights file' * takes_file}"
    )


def load_pretrained(
    backbone: nn.Module,
    choice: str | None,
    model: Mapping[str, Any],
    source: str | None,
    download: bool = True,
) -> Fit | None:
    """Loads pretrained weights into a backbone, and keeps mmengine from initialising it again.

    No code in a file is run. Tensors that the file lacks are initialised by mmsegmentation. Returns
    the weights used; None with ``none``.

    Args:
        backbone: the backbone of a network of mmsegmentation; changed in place.
        choice: ``imagenet``; ``none`` or None; or the path of a file in the layout of
            mmsegmentation, torchvision, timm, Swin Transformer or SegFormer.
        model: the config of the model to which the backbone belongs.
        source: the value that :func:`strip_pretrained` returned.

    Raises:
        UserError: weights are unknown, missing, damaged or hold more than tensors, cannot be
            downloaded, are quantised or not finite, or lack the first tensor of the backbone or
            more than 5 % of them.
        NotLocal: they are not on this machine, and ``download`` is false.
    """
    if choice in (None, "none"):
        return None
    # It imports torchvision and timm, which take seconds.
    from pipeline.segmenter import weight_sources

    settings = model["backbone"].get("backbone_cfg") or model["backbone"]
    # Backbones like ICNet and BiSeNet have a network of that name inside.
    names = (name for name, _ in backbone.named_modules() if name.split(".")[-1] == "backbone")
    inner = backbone.get_submodule(next(names, ""))
    if choice in ("imagenet", PUBLISHED):
        weights, origin = weight_sources.fetch_imagenet(inner, settings, source, download)
    else:
        path = given_path(choice, "segmenter.pretrained")
        weights, origin = weight_sources.read_state(path), str(choice)
    # Weights may be for a whole backbone like ICNet, or for the network inside it.
    part, (fit, tensors) = backbone, fit_weights(weights, origin, backbone, settings)
    if inner is not backbone and tensors is None:
        part, (fit, tensors) = inner, fit_weights(weights, origin, inner, settings)
    if tensors is None:
        named = "" if origin == choice else f" ({origin})"
        remedy = weight_sources.INSTEAD
        raise UserError(f"segmenter.pretrained={choice}{named} {fit.shortage}: {remedy}")
    refuse_quantised(tensors, origin)
    check_finite(tensors, origin)
    with quietly():
        backbone.init_weights()
    part.load_state_dict(tensors, strict=False)
    backbone.is_init = True  # otherwise mmengine would initialise it again
    if origin != choice:  # they are published, and not a given file
        fit = replace(fit, licence=weight_sources.licence_of(origin, settings))
    return fit


def _strip(config: object) -> list[str]:
    """Removes pretrained weights from a nested config; returns their sources."""
    sources = []
    for part in dictionaries(config):
        if "pretrained" in part:
            sources.append(part["pretrained"])
            part["pretrained"] = None
        if "TIMMBackbone" in str(part.get("type")):  # which downloads weights by default
            sources.append(part.get("checkpoint_path"))
            part["pretrained"], part["checkpoint_path"] = False, ""
        for key, value in list(part.items()):
            items = value if isinstance(value, list | tuple) else [value]
            named = [item for item in items if isinstance(item, Mapping) and "checkpoint" in item]
            if given := [item for item in named if "Pretrained" in str(item.get("type"))]:
                sources += [item["checkpoint"] for item in given]
                part[key] = [item for item in items if item not in given] or None
    return [place for place in sources if isinstance(place, str) and place]
