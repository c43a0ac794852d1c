"""TagCLIP and CLIP-ES on a few images, without a stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.cams.clip_es import ClipEs
from pipeline.clip.device import Batches
from pipeline.tags.tagclip import TagClip

ALONE = Batches(images=1, crops=4, waiting=32)
"""Every image in a batch of its own."""


def scores_of(
    tagger: TagClip, images: list[np.ndarray], variants: Sequence[str] = ()
) -> list[dict[str, np.ndarray]]:
    """Returns the scores of images, H×W×3 uint8: "scores" and the variants, n float32 each."""
    results = dict(tagger.stream(enumerate(images), variants))
    return [results[index].scores for index in range(len(images))]


def cams_of(method: ClipEs, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
    """Returns the refined CAM of every tag, K×h×w float32 in [0, 1] on the patch grid."""
    ((_, cams),) = method.stream([((), image, tags)])
    return cams
