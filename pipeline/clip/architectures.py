"""Which CLIPs the method can use, told before any weights are there, and how they were trained.

TagCLIP and CLIP-ES need a vision transformer whose class token gathers the image, and whose blocks
can be opened up. open_clip builds these itself, from patches of any size, at any depth, width and
size of heads; its other image towers are refused here by what their configuration says.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPVisionCfg, CustomTextCLIP

from pipeline.clip.pixels import OPENAI_NORMALISATION, Normalisation
from pipeline.errors import UserError, did_you_mean

ClipModel = CLIP | CustomTextCLIP
"""open_clip's two classes of CLIPs: with the text tower's parts in the model, or in a module."""

REMEDY = (
    "TagCLIP needs a vision transformer of open_clip's own with a class token: choose clip=vit_b16,"
    " or another such model as clip.model, for example ViT-B-32, ViT-L-14 or ViT-H-14"
)
"""What to say after saying what a CLIP is instead."""

_CUSTOM_ATTENTION = (
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.")
_RESNET_BLOCK = re.compile(r"visual\.layer([1-4])\.(\d+)\.conv1\.weight$")


@dataclass(frozen=True)
class Training:
    """What has to be at inference as it was when weights were trained.

    Attributes:
        normalisation: of the pixels.
        quick_gelu: whether the activation is OpenAI's approximation of GELU.
        forces_quick_gelu: whether that is so although the architecture's own configuration says
            otherwise, as that of ViT-B-16 does for OpenAI's weights.
    """

    normalisation: Normalisation = OPENAI_NORMALISATION
    quick_gelu: bool = True
    forces_quick_gelu: bool = False


def find_architecture(model: str) -> dict[str, Any]:
    """Returns open_clip's configuration of a model that the method can use.

    Nothing is downloaded, and nothing is built.

    Args:
        model: open_clip's name.

    Raises:
        UserError: no such model, an image tower that the method cannot use, or a text tower that
            needs a package which is not installed; says what it is, and what to choose.
    """
    if ":" in model:
        raise UserError(
            f"clip.model={model} names a place, not an architecture: give open_clip's name of the"
            " architecture, and the file with the weights as clip.checkpoint=PATH"
        )
    config = open_clip.get_model_config(model)
    if config is None:
        raise UserError(f"open_clip has no model {model}: {_suggest(model)}")
    if reason := _unsuitable(config):
        raise UserError(f"clip.model={model} {reason}, but {REMEDY}")
    text = config["text_cfg"]
    uses_transformers = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if uses_transformers and importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"clip.model={model} reads text with a part of Hugging Face's transformers, which is"
            " not installed: pip install transformers sentencepiece"
        )
    return config


def find_pretrained(model: str, pretrained: str | None) -> dict[str, Any]:
    """Returns what open_clip knows of published weights: their source, mean, std and activation.

    Raises:
        UserError: the model has no weights of that name.
    """
    settings = open_clip.get_pretrained_cfg(model, pretrained or "")
    if not settings:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "no weights"
        raise UserError(
            f"open_clip knows {known} for clip.model={model}, not {pretrained or 'null'}: give one"
            " of these as clip.pretrained, or clip.checkpoint=PATH clip.pretrained=null for weights"
            " of your own"
        )
    return settings


def find_training(model: str | None, pretrained: str | None) -> Training:
    """Returns how weights were trained, also those of a file that was downloaded elsewhere.

    open_clip's own factory only warns when weights were trained with QuickGELU and the name of the
    architecture does not say so; here the weights decide. The reverse is left to the architecture:
    some weights that do not mention QuickGELU were trained with it (roberta-ViT-B-32).

    Args:
        model: open_clip's name; none stands for a file in OpenAI's format.
        pretrained: the name of the weights; none stands for weights of one's own, which are taken
            to have been trained on pixels like OpenAI's.

    Raises:
        UserError: no such model or weights, or weights without a model.
    """
    if model is None:
        if pretrained is not None:
            raise UserError(
                f"clip.pretrained={pretrained} says nothing without the architecture: give it too,"
                " clip.model=NAME"
            )
        return Training()
    named = bool(find_architecture(model).get("quick_gelu"))
    if pretrained is None:
        return Training(quick_gelu=named)
    settings = find_pretrained(model, pretrained)
    quick_gelu = named or bool(settings.get("quick_gelu"))
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    return Training(normalisation, quick_gelu, forces_quick_gelu=quick_gelu != named)


def describe_architecture(weights: Mapping[str, torch.Tensor]) -> str:
    """Says in a few words what image tower a state dict belongs to."""
    if other := describe_other_tower(weights):
        return other
    kernel = weights.get("visual.conv1.weight")
    if kernel is None or kernel.ndim != 4:
        return "no vision transformer"
    width, patch = kernel.shape[0], kernel.shape[-1]
    return f"a ViT of width {width}, patch {patch} and {count_blocks(weights)} blocks"


def describe_other_tower(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Says which of open_clip's other image towers a state dict has; none where it has none."""
    blocks = {m.groups() for m in map(_RESNET_BLOCK.match, weights) if m}
    if blocks:
        counts = "-".join(str(sum(stage == b[0] for b in blocks)) for stage in "1234")
        return f"a ResNet with {counts} blocks"
    if any(key.startswith("visual.trunk.") for key in weights):
        return "an image tower of timm"
    return None


def count_blocks(weights: Mapping[str, torch.Tensor]) -> int:
    """Returns the depth of a state dict's vision transformer."""
    return len({m[1] for m in map(_BLOCK.match, weights) if m})


def models_of_other_heads(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Returns open_clip's models of these shapes whose heads are not 64 wide, as OpenAI's are.

    How many heads a transformer has cannot be told from its weights.

    Args:
        weights: a state dict in OpenAI's naming.
    """
    width, _, _, patch = weights["visual.conv1.weight"].shape
    tokens = len(weights["visual.positional_embedding"])
    vocabulary = len(weights["token_embedding.weight"])
    shape = (width, patch, count_blocks(weights), tokens, vocabulary)
    found = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = CLIPVisionCfg(**config["vision_cfg"])
        if _unsuitable(config) or vision.head_width == 64:
            continue
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        vocabulary = config["text_cfg"].get("vocab_size")
        if (vision.width, vision.patch_size, vision.layers, tokens, vocabulary) == shape:
            found.append(name)
    return found


def _unsuitable(config: Mapping[str, Any]) -> str | None:
    """Says what a model is where the method cannot use it."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    if vision.timm_model_name:
        return f"has an image tower of timm ({vision.timm_model_name})"
    if not isinstance(vision.layers, int):
        return "has a ResNet as its image tower"
    if "multimodal_cfg" in config:
        return "is a CoCa, which writes captions"
    if vision.attentional_pool:
        return "pools its patches by attention"
    if vision.pool_type != "tok" or vision.final_ln_after_pool:
        return "averages its patches"
    if vision.block_type == "custom" or any(getattr(vision, name) for name in _CUSTOM_ATTENTION):
        return "has attention of another kind"
    if not isinstance(vision.patch_size, int) or not isinstance(vision.image_size, int):
        return "has patches or images that are not square"
    return None


def _suggest(model: str) -> str:
    """Names the models that are spelt nearly like a name that open_clip does not know."""
    hint = did_you_mean(model, open_clip.list_models(), count=3)
    return f"{hint}open_clip.list_models() shows all names"
