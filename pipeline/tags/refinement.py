"""DMAR, the double-mask attention refinement (TagCLIP, section 3.3; ALGORITHMS §2).

Scores of patches are averaged over patches that attend to each other. Two masks keep that honest:
one on the attention, by votes of the blocks, and one on the patches, by boxes around the regions
where a class stands out.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.clip.boxes import minmax_scale, union_of_boxes


class VotedAttention:
    """The first mask: sums up attentions, block by block, without keeping them.

    An entry survives when at least ``votes`` blocks have it above the mean of their matrix; its
    value is the mean over the blocks of a window.
    """

    def __init__(self, window: range, votes: int):
        """Prepares to listen to a backbone.

        Args:
            window: numbers of the blocks that are averaged, counted from 1.
            votes: how many of all blocks must have an entry above average.
        """
        self.window = window
        self.votes = votes
        self._sum: torch.Tensor | None = None
        self._count: torch.Tensor | None = None

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in block ``block``'s attention, B×N×N float32, averaged over heads."""
        # The mean of a contiguous copy: that of a view differs in its last digit between numbers of
        # threads, and some votes hang on it.
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
    """The second mask: for every class, boxes around the regions in which it stands out.

    Args:
        scores: S¹ of one image, N×C.
        grid: h, w.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.

    Returns:
        N×C bool on the device of the scores.
    """
    maps = scores.mT.reshape(-1, *grid).float().cpu().numpy()
    masks = np.zeros(maps.shape, bool)
    for scaled, mask in zip(map(minmax_scale, maps), masks):
        if scaled.any():
            mask[:] = union_of_boxes(scaled, float(scaled.mean()), open_border=open_border)
    return torch.from_numpy(masks.reshape(len(masks), -1)).to(scores.device).mT


def refine(
    attention: torch.Tensor,
    scores: torch.Tensor,
    grid: tuple[int, int],
    count: int | None = None,
    *,
    open_border: bool,
) -> torch.Tensor:
    """Applies DMAR.

    Args:
        attention: A, B×N×N.
        scores: S⁰, B×N×C.
        grid: h, w.
        count: images in the batch, whose further rows are filling; none: all of them.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.

    Returns:
        S², B×N×C; one matrix product serves all classes.
    """
    first = propagate(attention, scores)
    masks = torch.zeros_like(first, dtype=torch.bool)
    for row in range(len(first) if count is None else count):
        masks[row] = class_masks(first[row], grid, open_border=open_border)
    return propagate(attention, scores * masks)
