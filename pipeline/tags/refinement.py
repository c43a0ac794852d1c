"""DMAR, dual-masking attention refinement (TagCLIP, section 3.3; docs/algorithms.md, section 2).

The scores of patches are averaged over the patches that they attend to. The first mask keeps the
entries of the attention that enough blocks agree on; the second keeps the patches within boxes
around each class's strong regions.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.clip.boxes import minmax_scale, union_of_boxes


class VotedAttention:
    """The first mask: an attention hook that averages the attention of a window of blocks.

    An entry is kept if it is above the mean of the matrix in at least ``votes`` of all blocks. No
    block's attention is stored.
    """

    def __init__(self, window: range, votes: int):
        """Starts with no block.

        Args:
            window: numbers of the blocks to average, counted from 1.
            votes: number of blocks, of all, in which an entry must be above average.
        """
        self.window = window
        self.votes = votes
        self._sum: torch.Tensor | None = None
        self._count: torch.Tensor | None = None

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32, averaged over heads."""
        # The mean of a contiguous copy: the last digit of a view's mean depends on the number of
        # threads, and some votes depend on that digit.
        above = attention > attention.flatten(1).mean(1)[:, None, None]
        self._count = above.to(torch.int16) if self._count is None else self._count.add_(above)
        if block in self.window:
            self._sum = attention.clone() if self._sum is None else self._sum.add_(attention)

    def result(self) -> torch.Tensor:
        """Returns A, B×N×N float32; its rows do not sum to 1."""
        return self._sum / len(self.window) * (self._count >= self.votes)


def propagate(attention: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Returns S¹ = A·S⁰, B×N×C."""
    return attention @ scores


def class_masks(scores: torch.Tensor, grid: tuple[int, int], *, open_border: bool) -> torch.Tensor:
    """Returns the second mask: for every class, the boxes around its strong regions.

    Args:
        scores: S¹ of one image, N×C.
        grid: h, w.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.

    Returns:
        N×C bool on the device of the scores.
    """
    by_class = scores.mT.reshape(-1, *grid).float().cpu().numpy()
    masks = np.zeros(by_class.shape, bool)
    for scaled, mask in zip(map(minmax_scale, by_class), masks):
        if scaled.any():
            mask[:] = union_of_boxes(scaled, float(scaled.mean()), open_border=open_border)
    return torch.from_numpy(masks.reshape(len(masks), -1)).to(scores.device).mT


def refine(
    attention: torch.Tensor,
    scores: torch.Tensor,
    grid: tuple[int, int],
    num_images: int | None = None,
    *,
    open_border: bool,
) -> torch.Tensor:
    """Applies DMAR.

    Args:
        attention: A, B×N×N.
        scores: S⁰, B×N×C.
        grid: h, w.
        num_images: images in the batch, whose other rows are padding; none for all rows.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.

    Returns:
        S², B×N×C; one matrix product serves all classes.
    """
    first = propagate(attention, scores)
    masks = torch.zeros_like(first, dtype=torch.bool)
    for row in range(len(first) if num_images is None else num_images):
        masks[row] = class_masks(first[row], grid, open_border=open_border)
    return propagate(attention, scores * masks)
