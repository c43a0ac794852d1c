"""Class embeddings: CLIP's text features of a name, averaged over prompt templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP
from torch import nn
from torch.func import functional_call

from pipeline.clip.architectures import ClipModel
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
"""Raised when the same names would get other embeddings than before."""

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
        batch_size: prompts that are encoded together.

    Returns:
        C×E float32, each row of length 1.
    """
    prompts = [template.format(name) for name in names for template in templates]
    tokens = tokenizer(prompts).to(clip.logit_scale.device)
    ends = end_of_text(clip, tokens)
    # Prompts of like length go together, so that each batch is cut as short as it can be.
    order = torch.arange(len(tokens)) if ends is None else ends.argsort(stable=True)
    features: list[torch.Tensor] = []
    for batch in order.split(batch_size):
        context = None if ends is None else int(ends[batch].max()) + 1
        features.append(encode_prompts(clip, tokens[batch], context))
    in_order = torch.empty_like(every := torch.cat(features))
    in_order[order] = every
    mean = in_order.unflatten(0, (len(names), len(templates))).mean(1)
    return F.normalize(mean, dim=-1)


def end_of_text(clip: ClipModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """Returns where each prompt ends, if nothing that follows can matter to its embedding.

    That is so in a causal text tower that is read at its end-of-text token, as OpenAI's is: prompts
    have some ten tokens, and the context 77.

    Args:
        clip: the model.
        tokens: B×context, of its tokenizer.

    Returns:
        B positions from 0; none where the whole context matters.
    """
    tower = _text_tower(clip)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return None
    if pool == "argmax":
        return tokens.argmax(-1)
    if pool == "eos":
        end = getattr(tower, "text_eos_id", None) or tower.eos_id
        return (tokens == end).int().argmax(-1)
    return None


def encode_prompts(clip: ClipModel, tokens: torch.Tensor, context: int | None) -> torch.Tensor:
    """Runs the text tower on the beginnings of prompts.

    Args:
        clip: the model.
        tokens: B×context tokens.
        context: how many of them count; none takes them all.

    Returns:
        B×E float32, each row of length 1.
    """
    if context is None:
        return F.normalize(clip.encode_text(tokens).float(), dim=-1)
    tower = _text_tower(clip)
    # open_clip's text towers count on the whole context; here they get one that is shorter.
    shortened = {
        "positional_embedding": tower.positional_embedding[:context],
        "attn_mask": tower.attn_mask[:context, :context],
    }
    tokens = tokens[:, :context]
    if tower is clip:
        _, features, *_ = functional_call(clip, shortened, (None, tokens))
    else:
        features = functional_call(tower, shortened, (tokens,))
    return F.normalize(features.float(), dim=-1)


def _text_tower(clip: ClipModel) -> nn.Module:
    """Returns the module that holds the text tower's parts: the model itself, or one of its own."""
    return clip if isinstance(clip, CLIP) else clip.text


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
