"""SC-CLIP as PIAA's authors run it: an image's features depend on the other images of its batch.

Wang et al., PIAA, ICML 2026, arXiv 2605.25821; the quirk ``piaa_batch`` of docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.dense.sc_clip import ScClip


@dataclass
class BatchedScClip(ScClip):
    """SC-CLIP on a batch, in which images are mixed up; with one image it is SC-CLIP itself."""

    def anomalous(self, patches: torch.Tensor) -> torch.Tensor:
        """Returns the outliers of the first image, for every image: B×N bool."""
        return super().anomalous(patches[:1]).expand(len(patches), -1)

    def attention_of(self, similarity: torch.Tensor, heads: int) -> torch.Tensor:
        """Returns the attention by similarities, most of which are of other images.

        Head h of image b has the similarities of image (b·H + h) mod B, of H heads and B images,
        and those count that are above the average of the batch.

        Args:
            similarity: S of every image, B×N×N.
            heads: H.

        Returns:
            B×H×N×N.
        """
        size = len(similarity)
        attending = self.above(similarity, similarity.mean())
        whose = torch.arange(size * heads, device=similarity.device) % size
        return attending[whose].unflatten(0, (size, heads))
