"""Class embeddings: CLIP's text features of a name, averaged over prompt templates.

The prompts of one template differ only in the name and the words after it. Since the tower is
causal, a template's prefix, such as "a bad photo of a", is computed once for all names. The padding
after the end of a prompt, up to the 77 tokens of the context, is never computed.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain

import open_clip
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import nn

from pipeline.clip.architectures import ClipModel, without_log
from pipeline.clip.attention import attend
from pipeline.clip.block import Block
from pipeline.clip.dimensions import Normalisation
from pipeline.clip.image_text import ImageTextModel
from pipeline.clip.image_tower import ImageTower
from pipeline.configuration.registry import expand_templates
from pipeline.errors import UserError

Tokenizer = Callable[[list[str]], torch.Tensor]
"""Turns N prompts into N×context int64 tokens."""

TEXT_ALGORITHM = 1
"""Version of the embeddings; raise it when they change by more than rounding."""

_BATCH_SIZE = 512  # prompts in a batch
_WHOLE_BATCH_SIZE = 256  # the same for text towers that cannot share the prefixes of prompts


def prompts_of(templates: str) -> tuple[str, ...]:
    """Returns the prompts of a set of templates, each with one ``{}``.

    "imagenet" has CLIP's 80 ImageNet prompts in their published order; methods declare the others.
    """
    imagenet = [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES]
    found = expand_templates(templates, ["imagenet"])
    return tuple(chain.from_iterable(imagenet if p == "imagenet" else [p] for p in found))


@cache
@without_log()
def load_tokenizer(model: str | None) -> Tokenizer:
    """Returns a model's tokenizer, which turns N prompts into N×context int64 tokens.

    Without a model, which is a file in OpenAI's format, it is OpenAI's tokenizer. Raises a
    UserError if one comes from Hugging Face, and a package or its files are missing.
    """
    try:
        return open_clip.get_tokenizer(model or "ViT-B-16")
    except Exception as error:  # without a network transformers raises many kinds of errors
        raise UserError(
            f"the tokenizer of clip.model={model} could not be loaded ({type(error).__name__}): it"
            " needs the packages transformers and sentencepiece, and is downloaded from Hugging"
            " Face once; do so on a machine with a network, and copy its cache"
            " (~/.cache/huggingface, or $HF_HOME)"
        ) from error


def of_clip(clip: ClipModel, normalisation: Normalisation, tokenizer: Tokenizer) -> ImageTextModel:
    """Returns what is asked of a CLIP of open_clip's form, whose pixels are normalised so."""
    embed_names = partial(class_embeddings, clip, tokenizer)
    return ImageTextModel(ImageTower.of(clip, normalisation), embed_names)


@torch.inference_mode()
def class_embeddings(
    clip: nn.Module, tokenizer: Tokenizer, names: Sequence[Sequence[str]], templates: Sequence[str]
) -> torch.Tensor:
    """Embeds classes by prompt ensembling (CLIP, section 3.1.4; docs/method.md, section 1).

    Each prompt's embedding is L2-normalised, the embeddings of a name are averaged, and the mean is
    normalised again. Those of several names of a class are averaged and normalised once more. The
    result is C×E float32 on the device of the weights, each row of length 1.

    Args:
        clip: the model, or its text tower alone.
        tokenizer: see :func:`load_tokenizer`.
        names: the names of each of C classes.
        templates: prompts with one ``{}``.
    """
    flat = [name for group in names for name in group]
    features = prompt_features(text_tower(clip), tokenizer, flat, templates)
    return join_names(join_prompts(features), names)


def join_prompts(features: torch.Tensor) -> torch.Tensor:
    """Returns names×E embeddings of length 1 from features of their prompts, templates×names×E."""
    return F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1)


def join_names(embeddings: torch.Tensor, names: Sequence[Sequence[str]]) -> torch.Tensor:
    """Returns the embeddings of C classes from those of all their names, each of length 1."""
    parts = embeddings.split([len(group) for group in names])
    joined = [F.normalize(part.mean(0), dim=-1) if len(part) > 1 else part[0] for part in parts]
    return torch.stack(joined)


@torch.inference_mode()
def prompt_features(
    tower: nn.Module, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """Returns the features of prompts by a text tower, templates×names×E float32, of any length."""
    prompts = [template.format(name) for template in templates for name in names]
    device = next(tower.parameters()).device
    tokens = tokenizer(prompts).to(device).unflatten(0, (len(templates), len(names)))
    if (ends := end_of_text(tower, tokens)) is not None:
        return encode_prompts(tower, tokens, ends)
    batches = tokens.flatten(0, 1).split(_WHOLE_BATCH_SIZE)
    encode = tower.encode_text if isinstance(tower, CLIP) else tower
    return torch.cat([encode(batch).float() for batch in batches]).unflatten(0, tokens.shape[:2])


def end_of_text(tower: nn.Module, tokens: torch.Tensor) -> torch.Tensor | None:
    """Returns where prompts end, if their embeddings are read there and no later token matters.

    Of tokens, …×context int64, these are positions, … int64, from 0; none if all tokens matter.
    """
    if isinstance(tower, CLIP):
        pool, end = tower.text_pool_type, tower.text_eos_id
    elif isinstance(tower, TextTransformer):
        pool, end = tower.pool_type, tower.eos_id
    else:  # a text tower of Hugging Face
        return None
    if pool == "argmax":
        return tokens.argmax(-1)
    return (tokens == end).int().argmax(-1) if pool == "eos" else None


def encode_prompts(tower: nn.Module, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Embeds prompts, templates×names×E float32, of any length; computes each prefix once.

    Args:
        tower: the text tower, for which :func:`end_of_text` returns positions.
        tokens: templates×names×context int64.
        ends: templates×names int64, the end of each prompt.
    """
    common = (tokens == tokens[:, :1]).all(1).long().cumprod(-1).sum(-1)
    # The embedding is read at the end, which therefore cannot be part of the prefix.
    prefixes = torch.minimum(common, ends.min(1).values)
    blocks = [Block(block) for block in tower.transformer.resblocks]
    by_template: list[torch.Tensor | None] = [None] * len(tokens)
    for length in prefixes.unique().tolist():
        group = torch.nonzero(prefixes == length).flatten()
        # Batches of prompts of similar length need little padding.
        order = ends[group[0]].argsort(stable=True)
        names_in_batch = max(1, _BATCH_SIZE // len(group))
        parts = [
            _encode_group(tower, blocks, tokens[group][:, names], ends[group][:, names], length)
            for names in order.split(names_in_batch)
        ]
        for template, features in zip(group.tolist(), torch.cat(parts, 1)[:, order.argsort()]):
            by_template[template] = features
    return torch.stack(by_template)


def _encode_group(
    tower: nn.Module, blocks: Sequence[Block], tokens: torch.Tensor, ends: torch.Tensor, length: int
) -> torch.Tensor:
    """Embeds prompts whose first ``length`` tokens are the prefix of their template."""
    templates, names = ends.shape
    stop = int(ends.max()) + 1
    mask, positions = tower.attn_mask[:stop, :stop], tower.positional_embedding[:stop]
    prefix = tower.token_embedding(tokens[:, 0, :length]) + positions[:length]
    rest = tower.token_embedding(tokens[:, :, length:stop].flatten(0, 1)) + positions[length:]
    *others, last_block = blocks
    for block in others:
        query, key, value = block.project(block.ln_1(prefix))
        rest_query, *rest_parts = block.project(block.ln_1(rest))
        keys, values = _prepend(names, (key, value), rest_parts)
        prefix = block.finish(prefix, attend(query, key, value, mask[:length, :length]))
        rest = block.finish(rest, attend(rest_query, keys, values, mask[length:]))
    # Of the last block only the ends are needed.
    _, *prefix_parts = last_block.project(last_block.ln_1(prefix))
    row, end = torch.arange(len(rest)), ends.flatten()
    normed = last_block.ln_1(rest)
    at_end = normed[row, end - length].unsqueeze(1)
    query, *rest_parts = last_block.project_for(normed, at_end)
    keys, values = _prepend(names, prefix_parts, rest_parts)
    attended = attend(query, keys, values, mask[end][:, None, None])
    features = last_block.finish(rest[row, end - length].unsqueeze(1), attended)[:, 0]
    features = tower.ln_final(features) @ tower.text_projection
    return features.float().unflatten(0, (templates, names))


def _prepend(
    names: int, prefix_parts: Sequence[torch.Tensor], rest_parts: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Prepends a template's keys and values to those of each of its prompts, along the tokens."""
    return [
        torch.cat([prefix.repeat_interleave(names, 0), rest], 2)
        for prefix, rest in zip(prefix_parts, rest_parts)
    ]


def text_tower(clip: nn.Module) -> nn.Module:
    """Returns the module that holds the text tower: the model itself, or a module of its own."""
    return clip.text if isinstance(clip, CustomTextCLIP) else clip
