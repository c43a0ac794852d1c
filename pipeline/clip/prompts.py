"""CLIP's text tower over many prompts that begin alike.

The 85 prompts of a name differ from those of another in the name and what follows it. The tower is
causal, so that the beginning of a template, "a bad photo of a", is computed once for all names, and
what follows the end of a prompt, up to the 77 tokens of the context, never.
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

_PROMPTS_AT_A_TIME = 512


def end_of_text(clip: ClipModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """Returns where prompts end, if their embeddings are read there and no later token matters.

    Args:
        clip: the model.
        tokens: …×context, of its tokenizer.

    Returns:
        Positions from 0, of the shape before the last; none where the whole context matters.
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
    """Embeds the prompts of names by templates.

    Args:
        clip: the model; its text tower is one that :func:`end_of_text` knows.
        tokens: templates×names×context.
        ends: templates×names, where each prompt ends.

    Returns:
        templates×names×E float32, each of length 1.
    """
    alike = (tokens == tokens[:, :1]).all(1).long().cumprod(-1).sum(-1)
    # The end itself is read, and so is never a part of what is shared.
    shared = torch.minimum(alike, ends.min(1).values)
    blocks = [Block(block) for block in _text_tower(clip).transformer.resblocks]
    found: list[torch.Tensor | None] = [None] * len(tokens)
    for length in shared.unique().tolist():
        group = torch.nonzero(shared == length).flatten()
        # Names of like length go together, so that few have to be filled up.
        order = ends[group[0]].argsort(stable=True)
        at_a_time = max(1, _PROMPTS_AT_A_TIME // len(group))
        parts = [
            _encode_group(clip, blocks, tokens[group][:, names], ends[group][:, names], length)
            for names in order.split(at_a_time)
        ]
        for template, features in zip(group.tolist(), torch.cat(parts, 1)[:, order.argsort()]):
            found[template] = features
    return torch.stack(found)


def _encode_group(
    clip: ClipModel,
    blocks: Sequence[Block],
    tokens: torch.Tensor,
    ends: torch.Tensor,
    length: int,
) -> torch.Tensor:
    """Embeds prompts whose first ``length`` tokens are those of their template."""
    tower = _text_tower(clip)
    templates, names = ends.shape
    stop = int(ends.max()) + 1
    mask, positions = tower.attn_mask[:stop, :stop], tower.positional_embedding[:stop]
    beginning = tower.token_embedding(tokens[:, 0, :length]) + positions[:length]
    rest = tower.token_embedding(tokens[:, :, length:stop].flatten(0, 1)) + positions[length:]
    *others, final = blocks
    for block in others:
        query, key, value = block.project(block.ln_1(beginning))
        query_of_rest, *of_rest = block.project(block.ln_1(rest))
        keys, values = _prepend(names, (key, value), of_rest)
        beginning = block.finish(beginning, attend(query, key, value, mask[:length, :length]))
        rest = block.finish(rest, attend(query_of_rest, keys, values, mask[length:]))
    # Of the last block only the end is read.
    _, *before = final.project(final.ln_1(beginning))
    row, last = torch.arange(len(rest)), ends.flatten()
    normed = final.ln_1(rest)
    at_end = normed[row, last - length].unsqueeze(1)
    query, *of_rest = final.project_for(normed, at_end)
    keys, values = _prepend(names, before, of_rest)
    gathered = attend(query, keys, values, mask[last][:, None, None])
    features = final.finish(rest[row, last - length].unsqueeze(1), gathered)[:, 0]
    features = _project(tower, tower.ln_final(features)).float()
    return F.normalize(features, dim=-1).unflatten(0, (templates, names))


def _prepend(
    names: int, beginning: Sequence[torch.Tensor], rest: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Puts a template's keys and values before those of each of its prompts, along the tokens."""
    return [
        torch.cat([before.repeat_interleave(names, 0), after], 2)
        for before, after in zip(beginning, rest)
    ]


def _project(tower: nn.Module, features: torch.Tensor) -> torch.Tensor:
    projection = tower.text_projection
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Linear) else features @ projection


def _text_tower(clip: ClipModel) -> nn.Module:
    """Returns the module that holds the text tower's parts: the model itself, or one of its own."""
    return clip if isinstance(clip, CLIP) else clip.text
