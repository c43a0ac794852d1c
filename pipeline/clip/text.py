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
"""Version of the embeddings; raise it when they change by more than rounding."""

TEMPLATES = {
    "tagclip": IMAGENET_TEMPLATES + SCENE_TEMPLATES,
    "clip_es": ("a clean origami {}.",),
    "photo": ("a photo of a {}.",),
}
"""The template sets, by their names in the configuration."""

_OPENAI_MODEL = "ViT-B-16"


def load_tokenizer(model: str | None) -> Callable[[list[str]], torch.Tensor]:
    """Returns a model's tokenizer, which turns N prompts into N×context int64 tokens.

    Args:
        model: open_clip's name of the architecture; none for a file in OpenAI's format, which uses
            OpenAI's tokenizer.

    Raises:
        UserError: the tokenizer comes from Hugging Face, and a package or its files are missing.
    """
    try:
        return open_clip.get_tokenizer(model or _OPENAI_MODEL)
    except Exception as error:  # without a network transformers raises many kinds of errors
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
    """Embeds names by prompt ensembling (CLIP, section 3.1.4; docs/algorithms.md, section 1).

    Each prompt's embedding is L2-normalised, the embeddings of a name are averaged, and the mean is
    normalised again.

    Args:
        clip: the model; its text tower runs on the device of its weights.
        tokenizer: see :func:`load_tokenizer`.
        names: C names.
        templates: prompts with one ``{}``.
        batch_size: prompts in a batch, for text towers that cannot share the prefixes of prompts.

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
        batches = tokens.flatten(0, 1).split(batch_size)
        features = torch.cat([F.normalize(clip.encode_text(b).float(), dim=-1) for b in batches])
        features = features.unflatten(0, tokens.shape[:2])
    return F.normalize(features.mean(0), dim=-1)


def name_embeddings(
    clip: ClipModel,
    tokenizer: Callable[[list[str]], torch.Tensor],
    names: Sequence[Sequence[str]],
    templates: Sequence[str],
) -> torch.Tensor:
    """Embeds classes with one or several names; several are averaged and normalised again.

    Args:
        clip: the model; its text tower runs on the device of its weights.
        tokenizer: see :func:`load_tokenizer`.
        names: the names of each of C classes.
        templates: prompts with one ``{}``.

    Returns:
        C×E float32, each row of length 1.
    """
    flat = [name for of_class in names for name in of_class]
    embeddings = class_embeddings(clip, tokenizer, flat, templates)
    parts = embeddings.split([len(of_class) for of_class in names])
    return torch.stack(
        [F.normalize(part.mean(0), dim=-1) if len(part) > 1 else part[0] for part in parts]
    )
