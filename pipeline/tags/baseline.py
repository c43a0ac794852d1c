"""The baseline: CLIP's class token on the whole image, squeezed to the native size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import torch

from pipeline.clip.attention import one_by_one
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import Listener, Name
from pipeline.engine.prefetch import by_shape
from pipeline.tags.patches import class_probabilities
from pipeline.tags.scored import Scored


class GlobalClip:
    """Scores images by CLIP's class token; see :class:`pipeline.tags.scored.Scorer`."""

    def __init__(self, encoder: ClipEncoder, text: torch.Tensor, class_count: int, batch_size: int):
        """Wires the baseline's parts; see :func:`global_scores`.

        ``batch_size`` is how many images are looked at together.
        """
        self.encoder = encoder
        self.text = text
        self.class_count = class_count
        self.batch_size = batch_size

    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], Listener] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images as they come, in their order; there are no variants and nothing to hear."""
        size = self.batch_size
        for batch in by_shape(images, lambda _: None, lambda _: size, size):
            pictures = [image for _, image in batch]
            filling = pictures[-1:] * (size - len(batch))
            scores = global_scores(self.encoder, self.text, self.class_count, pictures + filling)
            for (name, _), row in zip(batch, scores):
                yield name, Scored({"scores": row})


@torch.no_grad()
def global_scores(
    encoder: ClipEncoder, text: torch.Tensor, class_count: int, images: Sequence[np.ndarray]
) -> np.ndarray:
    """Scores images by CLIP's class token, squeezed to the native size: B×n float32 in [0, 1].

    Args:
        encoder: the image tower.
        text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
        class_count: n.
        images: B images, H×W×3 uint8, RGB, of any sizes.
    """
    pixels = torch.stack([encoder.prepare(image, squeeze=True) for image in images])
    features = encoder.image_features(pixels.to(encoder.device))
    scores = one_by_one(lambda rows: class_probabilities(rows, text, encoder.temperature), features)
    return scores[:, :class_count].float().cpu().numpy()
