"""SC-CLIP as PIAA's authors run it: an image's features depend on the other images of its batch.

Wang et al., PIAA, ICML 2026, arXiv 2605.25821; the quirk ``piaa_batch`` of docs/algorithms.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.dense.sc_clip import ScClip

BATCH = 128
"""Images of a batch, in the order of their list; the last batch has fewer."""


def batch_of(options: Any, quirks: Any) -> int:  # noqa: ANN401
    """Returns how many images PIAA mixes up, by its settings; 0 where each stands alone.

    Only centre squares do, since images of other sizes have no batch in common.
    """
    mixes = quirks.piaa_batch and options.encoder == "sc_clip" and options.crop
    return BATCH if mixes else 0


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
        of_image = self.above(similarity, similarity.mean())
        whose = torch.arange(size * heads, device=similarity.device) % size
        return of_image[whose].unflatten(0, (size, heads))
