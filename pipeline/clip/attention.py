"""A block's attention, taken apart: queries, keys and values; outputs; and what attends to what.

Weights may be in a lower precision than the tokens: products are taken in that of the weights,
while tokens, softmax and averages stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

_WEIGHTS_AT_A_TIME = 2**20  # of one head on a CPU: 4 MB


def project(
    block: ResidualAttentionBlock, normed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns queries, keys and values of a block, each B×heads×T×d, from the output of its ln_1.

    Args:
        block: the block.
        normed: B×T×D.
    """
    attn = block.attn
    projected = F.linear(
        normed.to(attn.in_proj_weight.dtype), attn.in_proj_weight, attn.in_proj_bias
    )
    query, key, value = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def project_value(block: ResidualAttentionBlock, normed: torch.Tensor) -> torch.Tensor:
    """Returns the values of a block alone, heads side by side: B×T×D."""
    attn = block.attn
    width = attn.embed_dim
    weight, bias = attn.in_proj_weight[-width:], attn.in_proj_bias[-width:]
    return F.linear(normed.to(weight.dtype), weight, bias)


def gather(
    block: ResidualAttentionBlock,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns a block's attention output, B×T×D, by torch's fused attention.

    Args:
        block: the block.
        query: B×heads×T×d.
        key: B×heads×S×d.
        value: B×heads×S×d.
        bias: added to the attention logits; broadcast to B×heads×T×S.
    """
    bias = None if bias is None else bias.to(query.dtype)
    gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return block.attn.out_proj(gathered.transpose(1, 2).flatten(2))


def one_by_one(work: Callable[..., torch.Tensor], *batches: torch.Tensor) -> torch.Tensor:
    """Does a few rows' work one after the other on a CPU, and together on a GPU.

    Attention and products of a few rows are divided among a CPU's threads in a way that depends on
    where in the batch a row stands, and the last digits of its result with it.

    Args:
        work: takes a part of each batch, and returns its results.
        batches: B×….

    Returns:
        The results of all parts, along the first dimension.
    """
    if batches[0].device.type != "cpu":
        return work(*batches)
    return torch.cat([work(*parts) for parts in zip(*(batch.split(1) for batch in batches))])


def attention_weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Returns softmax(QKᵀ/√d), B×heads×T×T float32; differentiable."""
    return ((query / math.sqrt(query.shape[-1])) @ key.mT).float().softmax(-1)


def gather_and_watch(
    block: ResidualAttentionBlock, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a block's attention output and what attends to what; without gradients.

    Args:
        block: the block.
        query: B×heads×T×d.
        key: B×heads×T×d.
        value: B×heads×T×d.

    Returns:
        The output, B×T×D, and the attention between patches averaged over heads, B×N×N float32,
        the class token's row and column cut off and the rest not renormalised.
    """
    see = head_by_head if query.device.type == "cpu" else all_heads
    gathered, mean = see(query, key, value)
    return block.attn.out_proj(gathered.transpose(1, 2).flatten(2)), mean


def watch(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Returns the attention between patches alone, as :func:`gather_and_watch` does."""
    see = head_by_head if query.device.type == "cpu" else all_heads
    return see(query, key, None)[1]


def all_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Does all heads at once, as GPUs like it; see :func:`head_by_head`."""
    weights = attention_weights(query, key)
    gathered = None if value is None else weights.to(value.dtype) @ value
    return gathered, weights.mean(1)[:, 1:, 1:]


def head_by_head(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Does some rows of one head at a time, whose weights stay in a CPU's cache.

    All heads of an image of 500×375 pixels have 28 MB of them, which would travel to memory and
    back for the softmax, the average and the product.

    Args:
        query: B×heads×T×d.
        key: B×heads×T×d.
        value: B×heads×T×d; none where only the attention is asked for.

    Returns:
        What is gathered, B×heads×T×d, and the attention between patches averaged over heads, B×N×N
        float32.
    """
    batch, heads, count, width = query.shape
    query = query / math.sqrt(width)
    gathered = None if value is None else torch.empty_like(value)
    mean = torch.zeros(batch, count, count, device=query.device)
    rows = max(1, _WEIGHTS_AT_A_TIME // count)
    weights = torch.empty(min(rows, count), count, device=query.device)
    for image in range(batch):
        for head in range(heads):
            keys, values = key[image, head].mT, None if value is None else value[image, head]
            for start in range(0, count, rows):
                part = slice(start, min(start + rows, count))
                into = weights[: part.stop - start]
                torch.softmax((query[image, head, part] @ keys).float(), -1, out=into)
                mean[image, part] += into
                if values is not None:
                    gathered[image, head, part] = into.to(values.dtype) @ values
    return gathered, mean[:, 1:, 1:] / heads


def finish_block(
    block: ResidualAttentionBlock, tokens: torch.Tensor, attended: torch.Tensor
) -> torch.Tensor:
    """Adds a block's residual and MLP to its attention output."""
    tokens = tokens + block.ls_1(attended)
    normed = block.ln_2(tokens).to(block.mlp.c_fc.weight.dtype)
    return tokens + block.ls_2(block.mlp(normed))
