"""Class embeddings: CLIP's text features of a name, averaged over prompt templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES

from pipeline.clip.architectures import ClipModel
from pipeline.clip.prompts import encode_prompts, end_of_text
from pipeline.errors import UserError

IMAGENET_TEMPLATES = tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)
"""The 80 templates of CLIP's ImageNet prompts, in their published order."""

SCENE_TEMPLATES = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)

TEXT_ALGORITHM = 1
"""Raised when the same names would get other embeddings than before, beyond rounding."""

TEMPLATES = {
    "tagclip": IMAGENET_TEMPLATES + SCENE_TEMPLATES,
    "clip_es": ("a clean origami {}.",),
    "photo": ("a photo of a {}.",),
}
"""Template sets by the name that a configuration gives them."""

_OPENAI_MODEL = "ViT-B-16"


def load_tokenizer(model: str | None) -> Callable[[list[str]], torch.Tensor]:
    """Returns what turns prompts into a model's tokens, one row a prompt.

    Args:
        model: open_clip's name; none stands for a file in OpenAI's format, which has OpenAI's
            tokenizer.

    Raises:
        UserError: the tokenizer comes from Hugging Face, and what it needs is not here.
    """
    try:
        return open_clip.get_tokenizer(model or _OPENAI_MODEL)
    except Exception as error:  # transformers and the hub raise nearly anything without a network
        raise UserError(
            f"the tokenizer of clip.model={model} could not be loaded ({type(error).__name__}): it"
            " needs the packages transformers and sentencepiece, and is downloaded from Hugging"
            " Face once; do so on a machine with a network, and copy its cache"
            " (~/.cache/huggingface, or $HF_HOME)"
        ) from error


@torch.inference_mode()
def class_embeddings(
    clip: ClipModel,
    tokenizer: Callable[[list[str]], torch.Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
) -> torch.Tensor:
    """Embeds names by prompt ensembling (ALGORITHMS §1; CLIP paper, section 3.1.4).

    Each prompt's embedding is L2-normalised, the embeddings of a name are averaged, and the mean is
    normalised again.

    Args:
        clip: the model, whose text tower is run where its weights lie.
        tokenizer: turns prompts into tokens, one row a prompt.
        names: C names.
        templates: prompts with one ``{}``.
        batch_size: prompts that are encoded together where they cannot share their beginnings.

    Returns:
        C×E float32, each row of length 1.
    """
    prompts = [template.format(name) for template in templates for name in names]
    tokens = tokenizer(prompts).to(clip.logit_scale.device)
    tokens = tokens.unflatten(0, (len(templates), len(names)))
    ends = end_of_text(clip, tokens)
    if ends is not None:
        features = encode_prompts(clip, tokens, ends)
    else:
        every = tokens.flatten(0, 1).split(batch_size)
        features = torch.cat([F.normalize(clip.encode_text(t).float(), dim=-1) for t in every])
        features = features.unflatten(0, tokens.shape[:2])
    return F.normalize(features.mean(0), dim=-1)


def name_embeddings(
    clip: ClipModel,
    tokenizer: Callable[[list[str]], torch.Tensor],
    names: Sequence[Sequence[str]],
    templates: Sequence[str],
) -> torch.Tensor:
    """Embeds classes that have one name or several; several are averaged and normalised again.

    Args:
        clip: the model, whose text tower is run where its weights lie.
        tokenizer: turns prompts into tokens, one row a prompt.
        names: C classes, each with its names.
        templates: prompts with one ``{}``.

    Returns:
        C×E float32, each row of length 1.
    """
    every = [name for several in names for name in several]
    embeddings = class_embeddings(clip, tokenizer, every, templates)
    parts = embeddings.split([len(several) for several in names])
    return torch.stack(
        [F.normalize(part.mean(0), dim=-1) if len(part) > 1 else part[0] for part in parts]
    )
