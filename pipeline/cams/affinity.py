"""Class-aware attention-based affinity (CLIP-ES, section 3.4; docs/algorithms.md, section 3)."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.cams.gradcam import normalise
from pipeline.clip.boxes import union_of_boxes
from pipeline.clip.linear import product

_SINKHORN_STEPS = 3


class MeanAttention:
    """An attention hook that averages the attention of some blocks without storing each."""

    def __init__(self, blocks: range):
        """Starts with no block; ``blocks`` are numbers counted from 1."""
        self.blocks = blocks
        self._sum: torch.Tensor | None = None

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32, averaged over heads."""
        if block in self.blocks:
            self._sum = attention.clone() if self._sum is None else self._sum.add_(attention)

    def result(self) -> torch.Tensor:
        """Returns Ā, B×N×N float32."""
        return self._sum / len(self.blocks)


def sinkhorn(attention: torch.Tensor, steps: int = _SINKHORN_STEPS) -> torch.Tensor:
    """Makes rows and columns sum to about one: divides by column sums and then by row sums.

    Args:
        attention: …×N×N, positive.
        steps: number of repetitions.
    """
    for _ in range(steps):
        attention = attention / attention.sum(-2, keepdim=True)
        attention = attention / attention.sum(-1, keepdim=True)
    return attention


def affinity(attention: torch.Tensor) -> torch.Tensor:
    """Returns the affinity of patches, N×N: Ā after Sinkhorn, made symmetric and squared."""
    balanced = sinkhorn(attention)
    balanced = (balanced + balanced.mT) / 2
    return product(balanced, balanced)  # product transposes its second argument, symmetric here


def refine_cams(
    cams: torch.Tensor,
    attention: torch.Tensor,
    grid: tuple[int, int],
    *,
    threshold: float,
    open_border: bool,
) -> torch.Tensor:
    """Propagates every CAM to patches of high affinity, from boxes around its strong regions.

    Args:
        cams: K×N float32 in [0, 1].
        attention: Ā of the image, N×N float32.
        grid: h, w.
        threshold: φ, the share of a CAM's peak above which a patch belongs to a region.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.

    Returns:
        K×N float32 in [0, 1].
    """
    masks = [
        union_of_boxes(cam.reshape(grid), threshold, open_border=open_border).reshape(-1)
        for cam in cams.cpu().numpy()
    ]
    boxes = torch.from_numpy(np.array(masks)).to(cams.device)
    return normalise((cams * boxes) @ affinity(attention).mT)
