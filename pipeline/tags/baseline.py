"""The baseline: CLIP's class token on the whole image, squeezed to the native size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from pipeline.clip.attention import one_by_one
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import AttentionRecorder, Name
from pipeline.clip.text import TEMPLATES
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.tags.patches import class_probabilities
from pipeline.tags.scored import Scored
from pipeline.tags.tagger import ScoredTagOptions


class GlobalClip:
    """Scores images by CLIP's class token; see :class:`pipeline.tags.scored.Scorer`."""

    def __init__(self, encoder: ClipEncoder, text: torch.Tensor, num_classes: int, batch_size: int):
        """Stores the arguments of :func:`global_scores` and the number of images in a batch."""
        self.encoder = encoder
        self.text = text
        self.num_classes = num_classes
        self.batch_size = batch_size

    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], AttentionRecorder] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images in their order; there are no variants, and there is no shared pass."""
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch_size)):
            names, pictures = zip(*batch)
            padding = pictures[-1:] * (self.batch_size - len(batch))
            scores = global_scores(self.encoder, self.text, self.num_classes, pictures + padding)
            for name, row in zip(names, scores):
                yield name, Scored({"scores": row})


@torch.no_grad()
def global_scores(
    encoder: ClipEncoder, text: torch.Tensor, num_classes: int, images: Sequence[np.ndarray]
) -> np.ndarray:
    """Scores images by CLIP's class token, squeezed to the native size: B×n float32 in [0, 1].

    Args:
        encoder: the image tower.
        text: C×E class embeddings on the encoder's device; n classes, then backgrounds.
        num_classes: n.
        images: B images, H×W×3 uint8, RGB, of any sizes.
    """
    pixels = torch.stack([encoder.prepare(image, squeeze=True) for image in images])
    features = encoder.image_features(pixels.to(encoder.device))
    scores = one_by_one(lambda rows: class_probabilities(rows, text, encoder.temperature), features)
    return scores[:, :num_classes].float().cpu().numpy()


@dataclass
class ClassTokenOptions(ScoredTagOptions):
    """``tags=clip``: CLIP's class token on the image squeezed to the native size.

    Attributes:
        templates: the set of templates.
    """

    templates: str = setting("tagclip", choices=TEMPLATES)


@register("tags", "clip", ClassTokenOptions, uses_clip=True)
def build_class_token(options: ClassTokenOptions, resources: Resources) -> GlobalClip:
    """Builds the baseline."""
    clip, vocabulary = resources.clip, resources.vocabulary
    text = clip.embed(vocabulary.tag_names, vocabulary.backgrounds, options.templates)
    return GlobalClip(clip.encoder, text, resources.num_classes, clip.batches.images)
