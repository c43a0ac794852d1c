"""The read-out of dense methods: which class has the name that is most like a pixel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from pipeline.dense.windows import resize


def best_lines(
    similarities: torch.Tensor,
    lines: Sequence[int],
    size: tuple[int, int],
    temperature: float,
    min_area: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the best line of every pixel, and its probability.

    The probability of a line is the largest one of its names in a softmax over all names. One name
    is resized at a time, so that memory does not grow with their number.

    Args:
        similarities: of C names, C×h×w float32.
        lines: the line of each name, from 0.
        size: height and width of the result in pixels.
        temperature: the factor of the similarities in the softmax.
        min_area: lines above 0 with at most this share of the pixels of such lines are left out.

    Returns:
        Lines, H×W uint8, and float32 in [0, 1].
    """

    def logits(of: Collection[int]) -> Iterator[tuple[int, torch.Tensor]]:
        for line, each in zip(lines, similarities):
            if line in of:
                yield line, temperature * resize(each[None], size)[0]

    best, label, total = _largest(logits(lines))
    probability = 1 / total
    if min_area > 0:
        area = torch.bincount(label.flatten().long(), minlength=max(lines) + 1)[1:]
        is_large = [True, *(area > min_area * area.sum()).tolist()]
        left, label, _ = _largest(logits([line for line in lines if is_large[line]]))
        probability = probability * (left - best).exp_()
    return label, probability


def _largest(
    logits: Iterator[tuple[int, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the largest logit of pixels, its line, and Σ exp(logit − largest), H×W each.

    Of equal logits the first counts.
    """
    line, best = next(logits)
    label, total = torch.full_like(best, line, dtype=torch.uint8), torch.ones_like(best)
    for line, each in logits:
        label[each > best] = line
        larger = torch.maximum(best, each)
        total = total * (best - larger).exp_() + (each - larger).exp_()
        best = larger
    return best, label, total
