"""CLIP's text tower for many prompts with common prefixes.

The prompts of one template differ only in the name and the words after it. Since the tower is
causal, a template's prefix, such as "a bad photo of a", is computed once for all names. The padding
after the end of a prompt, up to the 77 tokens of the context, is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pipeline.clip.architectures import ClipModel
from pipeline.clip.attention import attend
from pipeline.clip.block import Block

_BATCH_SIZE = 512


def end_of_text(clip: ClipModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """Returns where prompts end, if their embeddings are read there and no later token matters.

    Args:
        clip: the model.
        tokens: …×context int64, from its tokenizer.

    Returns:
        Positions counted from 0, … int64; none if the embeddings depend on the whole context.
    """
    tower = _text_tower(clip)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", [None])
    is_plain = all(type(block) is ResidualAttentionBlock for block in blocks)
    if getattr(tower, "attn_mask", None) is None or not is_plain:
        return None
    if getattr(tower, "cls_emb", None) is not None:
        return None
    if pool == "argmax":
        return tokens.argmax(-1)
    if pool == "eos":
        end = getattr(tower, "text_eos_id", None) or tower.eos_id
        return (tokens == end).int().argmax(-1)
    return None


def encode_prompts(clip: ClipModel, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Embeds prompts, computing the prefix of each template once.

    Args:
        clip: the model, for which :func:`end_of_text` returns positions.
        tokens: templates×names×context int64.
        ends: templates×names int64, the end of each prompt.

    Returns:
        templates×names×E float32, each of length 1.
    """
    common = (tokens == tokens[:, :1]).all(1).long().cumprod(-1).sum(-1)
    # The embedding is read at the end, which therefore cannot be part of the prefix.
    prefixes = torch.minimum(common, ends.min(1).values)
    blocks = [Block(block) for block in _text_tower(clip).transformer.resblocks]
    by_template: list[torch.Tensor | None] = [None] * len(tokens)
    for length in prefixes.unique().tolist():
        group = torch.nonzero(prefixes == length).flatten()
        # Batches of prompts of similar length need little padding.
        order = ends[group[0]].argsort(stable=True)
        names_in_batch = max(1, _BATCH_SIZE // len(group))
        parts = [
            _encode_group(clip, blocks, tokens[group][:, names], ends[group][:, names], length)
            for names in order.split(names_in_batch)
        ]
        for template, features in zip(group.tolist(), torch.cat(parts, 1)[:, order.argsort()]):
            by_template[template] = features
    return torch.stack(by_template)


def _encode_group(
    clip: ClipModel,
    blocks: Sequence[Block],
    tokens: torch.Tensor,
    ends: torch.Tensor,
    length: int,
) -> torch.Tensor:
    """Embeds prompts whose first ``length`` tokens are the prefix of their template."""
    tower = _text_tower(clip)
    templates, names = ends.shape
    stop = int(ends.max()) + 1
    mask, positions = tower.attn_mask[:stop, :stop], tower.positional_embedding[:stop]
    prefix = tower.token_embedding(tokens[:, 0, :length]) + positions[:length]
    rest = tower.token_embedding(tokens[:, :, length:stop].flatten(0, 1)) + positions[length:]
    *others, last_block = blocks
    for block in others:
        query, key, value = block.project(block.ln_1(prefix))
        query_of_rest, *of_rest = block.project(block.ln_1(rest))
        keys, values = _prepend(names, (key, value), of_rest)
        prefix = block.finish(prefix, attend(query, key, value, mask[:length, :length]))
        rest = block.finish(rest, attend(query_of_rest, keys, values, mask[length:]))
    # Of the last block only the ends are needed.
    _, *of_prefix = last_block.project(last_block.ln_1(prefix))
    row, end = torch.arange(len(rest)), ends.flatten()
    normed = last_block.ln_1(rest)
    at_end = normed[row, end - length].unsqueeze(1)
    query, *of_rest = last_block.project_for(normed, at_end)
    keys, values = _prepend(names, of_prefix, of_rest)
    attended = attend(query, keys, values, mask[end][:, None, None])
    features = last_block.finish(rest[row, end - length].unsqueeze(1), attended)[:, 0]
    features = _project(tower, tower.ln_final(features)).float()
    return F.normalize(features, dim=-1).unflatten(0, (templates, names))


def _prepend(
    names: int, of_prefix: Sequence[torch.Tensor], of_rest: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Prepends a template's keys and values to those of each of its prompts, along the tokens."""
    return [
        torch.cat([prefix.repeat_interleave(names, 0), rest], 2)
        for prefix, rest in zip(of_prefix, of_rest)
    ]


def _project(tower: nn.Module, features: torch.Tensor) -> torch.Tensor:
    projection = tower.text_projection
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Linear) else features @ projection


def _text_tower(clip: ClipModel) -> nn.Module:
    """Returns the module that holds the text tower: the model itself, or a module of its own."""
    return clip if isinstance(clip, CLIP) else clip.text
