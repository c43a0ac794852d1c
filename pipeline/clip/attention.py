"""Multi-head attention, softmax(QKᵀ/√d)·V, computed in the way that is fastest on each device.

Queries are B×heads×T×d, keys and values B×heads×S×d: B images, T queries, S keys, d channels of a
head; where S = T, the last N of the T tokens are patches. They may have a lower precision; softmax
and averages stay in float32.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.clip.compute.fused import FusedKernel
from pipeline.clip.compute.linear import product

_CHUNK_WEIGHTS = 2**20  # attention weights of one head that a CPU computes at a time: 4 MB
_MIN_WEIGHTS_BY_HEAD = 2**18  # with fewer weights a head, all heads at once are faster on a CPU


class Attention:
    """Attention without gradients, by the fused kernel or as the functions below compute it."""

    def __init__(self, kernel: FusedKernel | None = None, prefix: int = 1):
        self.kernel, self.prefix = kernel, prefix

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns what :func:`attend` does."""
        if self.kernel is not None and self.kernel.suits(query):
            return self.kernel(query, key, value, bias)[0]
        return attend(query, key, value, bias)

    def with_weights(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Returns the attention output, B×heads×T×d, and the attention between patches; S = T.

        The latter is averaged over heads, B×N×N float32. The rows and columns of the ``prefix``
        tokens before the patches are cut off, and the rest is not renormalised. Without values, it
        is all that is computed.
        """
        if self.kernel is not None and self.kernel.suits(query):
            return self.kernel(query, key, value, prefix=self.prefix)
        compute = head_by_head if query.device.type == "cpu" else all_heads
        return compute(query, key, value, self.prefix)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the attention output, B×heads×T×d; without gradients.

    The ``bias``, T×S or B×1×T×S (B may be 1), is added to the attention logits of all heads.
    """
    if query.device.type == "cpu":
        if bias is None and query.shape[-2] * key.shape[-2] > _MIN_WEIGHTS_BY_HEAD:
            return head_by_head(query, key, value, None)[0]
        if query.dtype != torch.float32:
            expanded = [] if bias is None else [bias.expand(len(query), 1, *bias.shape[-2:])]
            return one_by_one(_attend_unfused, query, key, value, *expanded)
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _attend_unfused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Replaces torch's fused attention, which is slow in bfloat16 on CPUs."""
    logits = _logits(query, key)
    if bias is not None:
        logits += bias
    return torch.softmax(logits, -1, out=logits).to(value.dtype) @ value


def one_by_one(work: Callable[..., torch.Tensor], *batches: torch.Tensor) -> torch.Tensor:
    """Computes the rows of small batches one after the other on a CPU, and together on a GPU.

    A CPU divides attention and products of a few rows among its threads depending on a row's
    position in the batch, which would change the last digits of its result. The ``batches``, B×…,
    are the arguments of ``work``, which computes the results of any part of them.
    """
    if batches[0].device.type != "cpu":
        return work(*batches)
    return torch.cat([work(*parts) for parts in zip(*(batch.split(1) for batch in batches))])


def attention_weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Returns softmax(QKᵀ/√d), B×heads×T×T float32; differentiable."""
    return _logits(query, key).softmax(-1)


def attention_to_alike(logits: torch.Tensor) -> torch.Tensor:
    """Overwrites logits, …×N×N, by their softmax over those not below 0 and the diagonal."""
    alone = logits.diagonal(dim1=-2, dim2=-1).clone()
    logits.masked_fill_(logits < 0, float("-inf")).diagonal(dim1=-2, dim2=-1).copy_(alone)
    return torch.softmax(logits, -1, out=logits)


def _logits(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return ((query / math.sqrt(query.shape[-1])) @ key.mT).float()


def all_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None, prefix: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Computes all heads at once, which suits GPUs; see :meth:`Attention.with_weights`."""
    weights = attention_weights(query, key)
    attended = None if value is None else weights.to(value.dtype) @ value
    return attended, weights.mean(1)[:, prefix:, prefix:]


def head_by_head(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None, prefix: int | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Computes some rows of one head at a time, so that their weights stay in a CPU's cache.

    The weights of all heads of a 500×375 image take 28 MB, which softmax, average and product
    would each read from memory. It returns what :meth:`Attention.with_weights` does. Without a
    ``prefix`` the average is not needed, and none takes its place.
    """
    batch, heads, count, width = query.shape
    num_keys = key.shape[-2]
    query, key = (query / math.sqrt(width)).contiguous(), key.contiguous()
    # oneDNN would compute a product with strided rows row by row.
    value = None if value is None else value.mT.contiguous()
    attended = None if value is None else query.new_empty(batch, count, heads, width)
    average = prefix is not None
    mean = torch.zeros(batch, count, num_keys, device=query.device) if average else None
    rows = max(1, _CHUNK_WEIGHTS // num_keys)
    buffer = torch.empty(min(rows, count), num_keys, device=query.device)
    for image in range(batch):
        for head in range(heads):
            for start in range(0, count, rows):
                part = slice(start, min(start + rows, count))
                weights = buffer[: part.stop - start]
                logits = product(query[image, head, part], key[image, head])
                torch.softmax(logits.float(), -1, out=weights)
                if average:
                    mean[image, part] += weights
                if value is not None:
                    output = product(weights.to(value.dtype), value[image, head])
                    attended[image, part, head] = output
    attended = None if attended is None else attended.transpose(1, 2)
    return attended, mean[:, prefix:, prefix:] / heads if average else None
