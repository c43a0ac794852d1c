"""The CLIPs that the method can use, checked before weights are loaded.

TagCLIP and CLIP-ES need a vision transformer with a class token and plain residual attention
blocks. open_clip's own transformers qualify, with any patch size, depth, width and size of heads.
Other image towers are refused here by their configuration.
"""

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPVisionCfg, CustomTextCLIP

from pipeline.errors import UserError, did_you_mean, shown

ClipModel = CLIP | CustomTextCLIP
"""open_clip's two classes of CLIPs: the text tower is part of the model, or a module of its own."""

REMEDY = (
    "TagCLIP needs a vision transformer of open_clip's own with a class token: choose clip=vit_b16,"
    " or another such model as clip.model, for example ViT-B-32, ViT-L-14 or ViT-H-14"
)
"""The end of a message that says what a CLIP is instead."""

_BLOCK = re.compile(r"visual\.transformer\.resblocks\.\d+\.ln_1\.weight")
_RESNET_BLOCK = re.compile(r"visual\.layer([1-4])\.\d+\.conv1\.weight")


@contextmanager
def without_log() -> Iterator[None]:
    """Drops what open_clip logs to the root logger, which would also get a handler by that."""
    silent = logging.NullHandler()
    silent.filter = lambda record: not record.pathname.startswith(open_clip.__path__[0])
    logging.root.addHandler(silent)
    logging.root.addFilter(silent)
    try:
        yield
    finally:
        logging.root.removeFilter(silent)
        logging.root.removeHandler(silent)


def find_architecture(model: str) -> dict[str, Any]:
    """Returns open_clip's configuration of a model, without downloading or building it.

    Raises:
        UserError: the model is unknown, the method cannot use its image tower, or its text tower
            needs a package that is not installed. The message says what to choose.
    """
    if ":" in model:
        raise UserError(
            f"clip.model={model} names a place, not an architecture: give open_clip's name of the"
            " architecture, and the file with the weights as clip.checkpoint=PATH"
        )
    if (config := open_clip.get_model_config(model)) is None:
        hint = did_you_mean(model, open_clip.list_models(), count=3)
        wrong = f"open_clip has no model {shown(model)}"
        raise UserError(f"{wrong}: {hint}open_clip.list_models() shows all names")
    if reason := _unsuitable(config):
        raise UserError(f"clip.model={model} {reason}, but {REMEDY}")
    text = config["text_cfg"]
    uses_transformers = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if uses_transformers and importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"the text tower of clip.model={model} needs Hugging Face's transformers, which is not"
            " installed: pip install transformers sentencepiece"
        )
    return config


def find_pretrained(model: str, pretrained: str | None) -> dict[str, Any]:
    """Returns what open_clip lists of published weights: their source, mean, std and activation.

    A UserError names those that the model has, if there are none of that name.
    """
    if not (settings := open_clip.get_pretrained_cfg(model, pretrained or "")):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "no weights"
        raise UserError(
            f"open_clip knows {known} for clip.model={shown(model)}, not"
            f" {shown(pretrained or 'null')}: give one of these as clip.pretrained, or"
            " clip.checkpoint=PATH clip.pretrained=null for your weights"
        )
    return settings


def describe_architecture(weights: Mapping[str, torch.Tensor]) -> str:
    """Describes the image tower of a state dict in a few words."""
    if resnet := [m[1] for m in map(_RESNET_BLOCK.fullmatch, weights) if m]:
        return f"a ResNet with {'-'.join(str(resnet.count(layer)) for layer in '1234')} blocks"
    if any(key.startswith("visual.trunk.") for key in weights):
        return "an image tower of timm"
    kernel = weights.get("visual.conv1.weight")
    if kernel is None or kernel.ndim != 4:
        return "no vision transformer"
    width, patch = kernel.shape[0], kernel.shape[-1]
    return f"a ViT of width {width}, patch {patch} and {_count_blocks(weights)} blocks"


def _count_blocks(weights: Mapping[str, torch.Tensor]) -> int:
    """Returns the depth of a state dict's vision transformer."""
    return sum(bool(_BLOCK.fullmatch(name)) for name in weights)


def models_of_other_heads(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns open_clip's models of these shapes whose heads are not 64 wide, unlike OpenAI's.

    The number of a transformer's heads cannot be read from a state dict with OpenAI's names.
    """
    width, _, _, patch = weights["visual.conv1.weight"].shape
    tokens = len(weights["visual.positional_embedding"])
    vocabulary = len(weights["token_embedding.weight"])
    shape = (width, patch, _count_blocks(weights), tokens, vocabulary)
    models = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = CLIPVisionCfg(**config["vision_cfg"])
        if _unsuitable(config) or vision.head_width == 64:
            continue
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        vocabulary = config["text_cfg"].get("vocab_size")
        if (vision.width, vision.patch_size, vision.layers, tokens, vocabulary) == shape:
            models.append(name)
    return models


def _unsuitable(config: Mapping[str, Any]) -> str | None:
    """Says why the method cannot use a model of open_clip's; none if it can."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    if vision.timm_model_name:
        return f"has an image tower of timm ({vision.timm_model_name})"
    if not isinstance(vision.layers, int):
        return "has a ResNet as its image tower"
    if "multimodal_cfg" in config:
        return "is a CoCa, which writes captions"
    if vision.pool_type != "tok" or vision.final_ln_after_pool:
        return "averages its patches"
    return None
