"""Reads pretrained weights from files and from torchvision, timm and mmsegmentation.

No code in a file is run. mmengine's own loader is not used, since it may unpickle a download.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from mmengine.runner import get_external_models, get_mmcls_models, get_torchvision_models
from torch import nn
from torchvision.models import get_model, get_model_weights

from pipeline.datasets.sources import find_licence
from pipeline.errors import NotDownloaded, NotLocal, UserError, command
from pipeline.files.hugging_face import fetch_to_cache, find_cached, on_mirror
from pipeline.files.weight_files import Oversized, read_weights_file
from pipeline.segmenter.weight_layouts import Weights, fit_weights

INSTEAD = "give segmenter.pretrained=PATH, a file that fits, or segmenter.pretrained=none"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of timm on Hugging Face, by preference
_CATALOGUES = {  # scheme of a name in a config → URLs by name
    "open-mmlab": get_external_models,
    "mmcls": get_mmcls_models,
    "torchvision": get_torchvision_models,
}


def read_state(path: Path) -> Weights:
    """Reads the tensors of safetensors, or of a state dict of ``torch.save``, perhaps nested.

    Raises a UserError if the file is damaged, holds no tensors, or objects that could run code.
    """
    try:
        if not (weights := _tensors_of(read_weights_file(path))):
            raise ValueError("the file holds no tensors")
    except Exception as error:  # every reader raises its own types
        objects: list[str] = []
        if not isinstance(error, Oversized):
            with suppress(Exception):  # a damaged file, or one from before torch 1.6
                # This reads the names in a pickle, and does not run it.
                objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if objects:
            raise UserError(
                f"segmenter.pretrained={path} holds objects that could run code"
                f" ({', '.join(objects[:3])}): save its tensors only,"
                " torch.save(checkpoint['state_dict'], PATH)"
            ) from error
        raise UserError(
            f"segmenter.pretrained={path} is damaged or not a weights file"
            f" ({type(error).__name__}): give a state dict of torch.save, or safetensors"
        ) from error
    return weights


def fetch_imagenet(
    backbone: nn.Module, settings: Mapping[str, Any], source: str | None, download: bool = True
) -> tuple[Weights, str]:
    """Returns ImageNet weights for a backbone, and their URL or path.

    Networks of timm get timm's weights, plain ResNets those of torchvision (IMAGENET1K_V1), and
    others those that the config of mmsegmentation names: a URL, a path, or a name like
    ``mmcls://mobilenet_v2``. Raises a UserError if none are known, or they cannot be downloaded.
    """
    kind = type(backbone).__name__
    unknown = f"no ImageNet weights are known for this {kind}"
    if kind == "TIMMBackbone":
        name = settings["model_name"]
        known = timm.get_pretrained_cfg(name)
        if known is None or not known.has_weights:
            raise UserError(f"{unknown}, timm's {name}: {INSTEAD}")
        return _fetch(_files_of_timm(known), download)
    if name := _torchvision_name(backbone):
        with torch.device("meta"):  # its shapes tell whether to download it
            weights = get_model(name).state_dict()
        fit, tensors = fit_weights(weights, name, backbone, settings)
        if tensors is None:
            raise UserError(f"{unknown}, since {name} {fit.shortage}: {INSTEAD}")
        return _fetch([get_model_weights(name).IMAGENET1K_V1.url], download)
    # The depth of a ResNetV1c, which overrides may have changed, names its weights.
    by_depth = f"resnet{getattr(backbone, 'depth', None)}_v1c"
    if kind == "ResNetV1c" and by_depth in get_external_models():
        source = f"open-mmlab://{by_depth}"
    scheme, separator, name = (source or "").rpartition("://")
    if separator and scheme not in ("http", "https"):
        source = _CATALOGUES.get(scheme, dict)().get(name)
    if source is None:
        raise UserError(f"{unknown}: {INSTEAD}")
    if "://" in source:
        return _fetch([source], download)
    if not Path(source).is_file():
        raise UserError(
            f"segmenter.config takes its ImageNet weights from the file {source}, which does not"
            f" exist: {INSTEAD}"
        )
    return read_state(Path(source)), source


def licence_of(origin: str, settings: Mapping[str, Any]) -> str:
    """Returns the licence of a backbone's published weights in words, from where they came from."""
    if "model_name" in settings:
        return timm.get_pretrained_cfg(settings["model_name"]).license or "not stated"
    return find_licence(PurePosixPath(origin).stem)


def _files_of_timm(known: timm.models.PretrainedCfg) -> list[str]:
    """Returns the URLs of timm's weights, of which the first that exists counts."""
    if not known.hf_hub_id:
        return [known.url]
    repository, _, revision = known.hf_hub_id.partition("@")
    folder = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}"
    files = [known.hf_hub_filename] if known.hf_hub_filename else _HUB_FILES
    return [f"{folder}/{file}" for file in files]


def _torchvision_name(backbone: nn.Module) -> str | None:
    """Returns torchvision's name of a backbone if it is a ResNet in torchvision's layout."""
    if type(backbone).__name__ != "ResNet" or backbone.style != "pytorch":
        return None
    return None if backbone.deep_stem or backbone.avg_down else f"resnet{backbone.depth}"


def _fetch(urls: Sequence[str], download: bool) -> tuple[Weights, str]:
    """Returns the tensors behind the first URL that exists, through its client's cache, and it."""
    path, url = next(filter(None, map(find_cached, urls)), None), on_mirror(urls[0])
    if path is None and not download:
        raise NotLocal(url)
    try:
        path = path or next(filter(None, map(fetch_to_cache, urls)), None)
        if path is None:
            raise FileNotFoundError(url)
    except Exception as error:  # the clients raise many types
        cause = error.__cause__ or error if isinstance(error, UserError) else error
        raise NotDownloaded(
            f"segmenter.pretrained=imagenet: {url} could not be downloaded"
            f" ({type(cause).__name__}): run {command('download')} {url} where there is a network,"
            " and give segmenter.pretrained=PATH here, or segmenter.pretrained=none"
        ) from cause
    try:
        return read_state(path), url
    except UserError as error:
        raise UserError(
            f"segmenter.pretrained=imagenet: the download of {url} is damaged or holds more than"
            f" tensors ({type(error.__cause__).__name__}): delete {path} and try again, or"
            f" {INSTEAD}"
        ) from error


def _tensors_of(checkpoint: Mapping[str, Any]) -> Weights:
    # Averaged weights first, as in timm.
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = {k: value for k, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    return timm.models.clean_state_dict(tensors)  # removes prefixes of distributed training
