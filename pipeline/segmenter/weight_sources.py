"""Where weights come from: files, and what torchvision, timm and mmsegmentation publish.

Nothing that is read is executed. mmengine's own loader is not used, since it unpickles whatever it
downloads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import get_session
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import nn
from torch.hub import get_dir, load_state_dict_from_url

from pipeline.errors import UserError
from pipeline.files.weight_files import Oversized, read_weights_file
from pipeline.segmenter.weight_layouts import Fit, Weights, build_timm_backbone, fit_weights

INSTEAD = "give segmenter.pretrained=PATH, a file that fits, or segmenter.pretrained=none"
_PATIENCE = 20.0  # seconds without an answer from the network
_WITH_COCO_WEIGHTS = ("resnet50", "resnet101")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # timm's on Hugging Face


def read_weights(path: Path) -> Weights:
    """Reads the tensors of a file.

    Args:
        path: safetensors, or what ``torch.save`` wrote: a state dict, or one under ``state_dict``
            or ``model``.

    Raises:
        UserError: the file is damaged, holds no tensors, or objects that would have to be run.
    """
    try:
        weights = _tensors_of(read_weights_file(path))
    except Exception as error:  # every reader has errors of its own
        if not isinstance(error, Oversized) and (objects := _objects_in(path)):
            raise UserError(
                f"segmenter.pretrained={path} holds objects that could run code ({objects}): save"
                " its tensors alone, torch.save(checkpoint['state_dict'], PATH)"
            ) from error
        raise UserError(
            f"segmenter.pretrained={path} is damaged or no weights file ({type(error).__name__}):"
            " give a state dict of torch.save, or safetensors"
        ) from error
    if not weights:
        raise UserError(
            f"segmenter.pretrained={path} holds no tensors: give a state dict of torch.save, or"
            " safetensors"
        )
    return weights


def fetch_imagenet(
    backbone: nn.Module, settings: Mapping[str, Any], source: str | None
) -> tuple[Weights, str]:
    """Returns the ImageNet weights of a backbone, and their URL.

    timm's for its networks, torchvision's (IMAGENET1K_V1) for a plain ResNet, for others those that
    mmsegmentation's config names.

    Args:
        backbone: the network.
        settings: its config.
        source: what the config names: a URL, a path, or a name like ``mmcls://mobilenet_v2``.

    Raises:
        UserError: no such weights are known, or they cannot be downloaded.
    """
    if type(backbone).__name__ == "TIMMBackbone":
        return _fetch_from_timm(backbone, settings)
    if name := _torchvision_name(backbone):
        from torchvision.models import get_model_weights

        fit = _fit_torchvision(name, backbone, settings)
        if not fit.is_enough:
            raise UserError(f"{_unknown(backbone)}, since {name} {fit}: {INSTEAD}")
        url = get_model_weights(name).IMAGENET1K_V1.url
        return _download(url, "imagenet"), url
    place = _locate(_name_by_depth(backbone) or source)
    if place is None:
        raise UserError(f"{_unknown(backbone)}: {INSTEAD}")
    if "://" in place:
        return _download(place, "imagenet"), place
    if not Path(place).is_file():
        raise UserError(
            f"segmenter.config takes its ImageNet weights from the file {place}, which does not"
            f" exist: {INSTEAD}"
        )
    return read_weights(Path(place)), place


def fetch_coco(backbone: nn.Module, settings: Mapping[str, Any]) -> tuple[Weights, str]:
    """Returns torchvision's DeepLabV3, trained on masks of COCO, and its URL.

    Raises:
        UserError: the backbone is another than torchvision's, or the download fails.
    """
    from torchvision.models import get_model_weights

    name = _torchvision_name(backbone)
    if name not in _WITH_COCO_WEIGHTS or not _fit_torchvision(name, backbone, settings).is_enough:
        raise UserError(
            "segmenter.pretrained=coco is for a plain ResNet-50 or ResNet-101 of full width, not"
            f" for this {_name_of(backbone)}: choose segmenter.pretrained=imagenet, or"
            " segmenter.overrides.backbone.type=ResNet"
        )
    url = get_model_weights(f"deeplabv3_{name}").COCO_WITH_VOC_LABELS_V1.url
    return _download(url, "coco"), url


def _fetch_from_timm(backbone: nn.Module, settings: Mapping[str, Any]) -> tuple[Weights, str]:
    """Has timm download its weights, and fit them to its network for feature maps."""
    import timm

    name = settings["model_name"]
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise UserError(f"{_unknown(backbone)}, timm's {name}: {INSTEAD}")
    url = known.url if isinstance(known.url, (str, type(None))) else known.url[0]
    try:
        with _impatience(), _tensors_alone():
            if known.hf_hub_id:
                repository, _, revision = known.hf_hub_id.partition("@")
                file = known.hf_hub_filename or _HUB_FILES[0]
                url = hf_hub_url(repository, file, revision=revision or None)
                if not any(_is_cached(repository, each) for each in (file, *_HUB_FILES)):
                    # The hub's own client tries six times for each of two files: most of a minute.
                    get_session().head(url, timeout=_PATIENCE)
            return build_timm_backbone(backbone, settings).state_dict(), url
    except Exception as error:  # the hub's clients have a class each for "no network"
        if "size mismatch" in str(error):
            raise UserError(f"{_unknown(backbone)}, unlike {name} of timm: {INSTEAD}") from error
        raise _not_downloaded(url, "imagenet", error) from error


def _is_cached(repository: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, file), str)


def _torchvision_name(backbone: nn.Module) -> str | None:
    """Returns torchvision's name of a ResNet, if the backbone is one in its layout."""
    if type(backbone).__name__ != "ResNet" or backbone.style != "pytorch":
        return None
    return None if backbone.deep_stem or backbone.avg_down else f"resnet{backbone.depth}"


def _fit_torchvision(name: str, backbone: nn.Module, settings: Mapping[str, Any]) -> Fit:
    """Fits a network of torchvision by its shapes alone, which tell if it is worth a download."""
    from torchvision.models import get_model

    with torch.device("meta"):
        weights = get_model(name).state_dict()
    return fit_weights(weights, backbone, settings)


def _name_by_depth(backbone: nn.Module) -> str | None:
    """Returns the weights of a ResNetV1c, whose depth overrides may have changed."""
    name = f"resnet{getattr(backbone, 'depth', None)}_v1c"
    known = type(backbone).__name__ == "ResNetV1c" and name in get_external_models()
    return f"open-mmlab://{name}" if known else None


def _locate(source: str | None) -> str | None:
    """Returns the URL or path behind a name of OpenMMLab's; None if there is none."""
    scheme, separator, name = (source or "").rpartition("://")
    if not separator or scheme in ("http", "https"):
        return source
    if scheme in ("open-mmlab", "openmmlab"):
        return get_external_models().get(get_deprecated_model_names().get(name, name))
    if scheme == "mmcls":
        return get_mmcls_models().get(name)
    return get_torchvision_models().get(name) if scheme in ("torchvision", "modelzoo") else None


def _download(url: str, choice: str) -> Weights:
    """Returns the tensors behind a URL; they stay in torch's cache."""
    try:
        with _impatience():
            checkpoint = load_state_dict_from_url(
                url,
                map_location="cpu",
                check_hash=url.startswith("https://download.pytorch.org/"),
                weights_only=True,
            )
        return _tensors_of(checkpoint)
    except (OSError, HTTPException) as error:
        raise _not_downloaded(url, choice, error) from error
    except Exception as error:  # every reader has errors of its own
        stored = Path(get_dir()) / "checkpoints" / Path(url).name
        raise UserError(
            f"segmenter.pretrained={choice}: what {url} sent is damaged or holds more than tensors"
            f" ({type(error).__name__}): delete {stored} and try again, or {INSTEAD}"
        ) from error


@contextmanager
def _impatience() -> Iterator[None]:
    """Gives up on hosts that do not answer; urllib would wait for minutes."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Has PyTorch refuse whatever is no tensor; older versions of timm do not."""
    force, forbid = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    previous = {name: os.environ.pop(name, None) for name in (force, forbid)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: value for name, value in previous.items() if value is not None})


def _tensors_of(checkpoint: Mapping[str, Any]) -> Weights:
    from timm.models import clean_state_dict

    # timm prefers averaged weights, as it stores them.
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = {k: value for k, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    return clean_state_dict(tensors)  # without the prefixes of training in several processes


def _objects_in(path: Path) -> str:
    """Names what a file would have Python import; the pickle is scanned, not run."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a damaged file, or one of before torch 1.6
        return ""
    return ", ".join(names[:3])


def _name_of(backbone: nn.Module) -> str:
    depth = getattr(backbone, "depth", None)
    return type(backbone).__name__ + (f"-{depth}" if depth else "")


def _unknown(backbone: nn.Module) -> str:
    return f"no ImageNet weights are known for this {_name_of(backbone)}"


def _not_downloaded(url: str | None, choice: str, error: Exception) -> UserError:
    return UserError(
        f"segmenter.pretrained={choice}: {url} could not be downloaded ({type(error).__name__}):"
        " fetch it by hand and give segmenter.pretrained=PATH, or segmenter.pretrained=none"
    )
