"""The baseline: CLIP's class token on the whole image, squeezed to the native size."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipeline.clip.device import to_host
from pipeline.clip.encoder import ClipEncoder
from pipeline.tags.tagger import Scored, Tagger


@torch.no_grad()
def global_scores(
    encoder: ClipEncoder, text: torch.Tensor, num_classes: int, images: Sequence[np.ndarray]
) -> np.ndarray:
    """Scores images by CLIP's class token, squeezed to the native size: B×n float32 in [0, 1].

    Images are H×W×3 uint8, RGB, of any size, and ``text`` C×E class embeddings on the encoder's
    device: n classes, then backgrounds.
    """
    pixels = torch.stack([encoder.prepare(image, squeeze=True) for image in images])
    probabilities = encoder.classify_images(pixels.to(encoder.device), text)
    return to_host(probabilities[:, :num_classes])[0]


@dataclass(eq=False)
class GlobalClip(Tagger):
    """Scores images by :func:`global_scores`, ``batch_size`` at a time."""

    encoder: ClipEncoder
    text: torch.Tensor
    num_classes: int
    batch_size: int

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]], variants: Collection[str] = ()
    ) -> Iterator[tuple[Any, Scored]]:
        """Scores images in their order; there are no variants."""
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch_size)):
            names, pictures = zip(*batch)
            padding = pictures[-1:] * (self.batch_size - len(batch))
            scores = global_scores(self.encoder, self.text, self.num_classes, pictures + padding)
            for name, row in zip(names, scores):
                yield name, Scored({"scores": row})
