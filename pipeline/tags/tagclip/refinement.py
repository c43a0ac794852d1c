"""DMAR, dual-masking attention refinement (TagCLIP, section 3.3; docs/method.md, section 2).

Scores of patches are averaged over those that they attend to. The first mask keeps attention that
enough blocks agree on; the second keeps patches in boxes around each class's strong regions.
"""

import numpy as np
import torch

from pipeline.clip.compute.boxes import minmax_scale, union_of_boxes
from pipeline.clip.device import to_host
from pipeline.clip.shared_pass import MeanAttention


class VotedAttention:
    """The first mask: an attention hook that averages the attention of a window of blocks.

    Blocks are counted from 1. An entry is kept if it is above the mean of the matrix in at least
    ``votes`` of all blocks. No block's attention is stored.
    """

    def __init__(self, window: range, votes: int):
        self.votes = votes
        self._mean = MeanAttention(window)
        self._count: torch.Tensor | None = None

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32, averaged over heads."""
        # The mean of a contiguous copy: the last digit of a view's mean depends on the number of
        # threads, and some votes depend on that digit.
        above = attention > attention.flatten(1).mean(1)[:, None, None]
        votes = above.view(torch.uint8)  # of at most 255 blocks
        self._count = votes.clone() if self._count is None else self._count.add_(votes)
        self._mean(block, attention)

    def result(self) -> torch.Tensor:
        """Returns A, B×N×N float32; its rows do not sum to 1."""
        return self._mean.result() * (self._count >= self.votes)


def refine(
    attention: torch.Tensor,
    scores: torch.Tensor,
    grid: tuple[int, int],
    num_images: int | None = None,
    *,
    open_border: bool,
) -> torch.Tensor:
    """Applies DMAR; the second mask has the boxes around each class's strong regions.

    Args:
        attention: A, B×N×N.
        scores: S⁰, B×N×C.
        grid: h, w.
        num_images: images in the batch, whose other rows are padding; none for all rows.
        open_border: quirk, see :func:`pipeline.clip.compute.boxes.bounding_box`.

    Returns:
        S², B×N×C; one matrix product serves all classes.
    """
    first = attention @ scores  # S¹
    masks = np.zeros((first.shape[0], first.shape[2], *grid), bool)
    [by_class] = to_host(first[:num_images].mT.unflatten(-1, grid))
    for score_maps, image_masks in zip(by_class, masks):
        scaled = np.stack([*map(minmax_scale, score_maps)])
        means = [float(each.mean()) for each in scaled]
        image_masks[:] = union_of_boxes(scaled, means, open_border=open_border)
    boxes = torch.from_numpy(masks).flatten(2).mT.contiguous().to(scores.device)
    return attention @ (scores * boxes)
