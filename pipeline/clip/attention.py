"""What attends to what, and what it gathers: softmax(QKᵀ/√d)·V, in the way that suits a device.

Queries, keys and values may be in a lower precision; softmax and averages stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.clip.linear import product

_WEIGHTS_AT_A_TIME = 2**20  # of one head on a CPU: 4 MB
_MANY_WEIGHTS = 2**18  # a head with more of them is worth a product of its own


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns what is gathered, B×heads×T×d; without gradients.

    Args:
        query: B×heads×T×d.
        key: B×heads×S×d.
        value: B×heads×S×d.
        bias: added to the attention logits, the same for all heads: T×S, or B×1×T×S, where B may
            be 1.
    """
    if query.device.type == "cpu":
        if bias is None and query.shape[-2] * key.shape[-2] > _MANY_WEIGHTS:
            return head_by_head(query, key, value, average=False)[0]
        if query.dtype != torch.float32:
            shared = [] if bias is None else [bias.expand(len(query), 1, *bias.shape[-2:])]
            return one_by_one(_attend_at_once, query, key, value, *shared)
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _attend_at_once(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Does what torch's fused attention does, which is slow in bfloat16 on CPUs."""
    logits = _logits(query, key)
    if bias is not None:
        logits += bias
    return torch.softmax(logits, -1, out=logits).to(value.dtype) @ value


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
    return _logits(query, key).softmax(-1)


def _logits(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return ((query / math.sqrt(query.shape[-1])) @ key.mT).float()


def watch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Returns what is gathered, and what attends to what; without gradients.

    Args:
        query: B×heads×T×d.
        key: B×heads×T×d.
        value: B×heads×T×d; none where only the attention is asked for.

    Returns:
        What is gathered, B×heads×T×d, and the attention between patches averaged over heads, B×N×N
        float32, the class token's row and column cut off and the rest not renormalised.
    """
    see = head_by_head if query.device.type == "cpu" else all_heads
    return see(query, key, value)


def all_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Does all heads at once, as GPUs like it; see :func:`watch`."""
    weights = attention_weights(query, key)
    gathered = None if value is None else weights.to(value.dtype) @ value
    return gathered, weights.mean(1)[:, 1:, 1:]


def head_by_head(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    *,
    average: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Does some rows of one head at a time, whose weights stay in a CPU's cache.

    All heads of an image of 500×375 pixels have 28 MB of them, which would travel to memory and
    back for the softmax, the average and the product.

    Args:
        query: B×heads×T×d.
        key: B×heads×T×d.
        value: B×heads×T×d; none where only the attention is asked for.
        average: whether the attention is asked for.

    Returns:
        As :func:`watch`; no average where none is asked for.
    """
    batch, heads, count, width = query.shape
    attended = key.shape[-2]
    query, key = (query / math.sqrt(width)).contiguous(), key.contiguous()
    # A product with Vᵀ's rows apart would be taken one by one.
    value = None if value is None else value.mT.contiguous()
    gathered = None if value is None else query.new_empty(batch, count, heads, width)
    mean = torch.zeros(batch, count, attended, device=query.device) if average else None
    rows = max(1, _WEIGHTS_AT_A_TIME // attended)
    weights = torch.empty(min(rows, count), attended, device=query.device)
    for image in range(batch):
        for head in range(heads):
            for start in range(0, count, rows):
                part = slice(start, min(start + rows, count))
                into = weights[: part.stop - start]
                logits = product(query[image, head, part], key[image, head])
                torch.softmax(logits.float(), -1, out=into)
                if average:
                    mean[image, part] += into
                if value is not None:
                    found = product(into.to(value.dtype), value[image, head])
                    gathered[image, part, head] = found
    gathered = None if gathered is None else gathered.transpose(1, 2)
    return gathered, mean[:, 1:, 1:] / heads if average else None
