"""PIAA: a tagger that learns a prototype of every class from unlabelled images.

Wang et al., ICML 2026, arXiv 2605.25821; docs/algorithms.md, "Tags: PIAA".
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.clip.device import to_host
from pipeline.clip.frozen import Resources
from pipeline.dense.method import build_method
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.engine.registry import find_method
from pipeline.errors import ImageError
from pipeline.tags.piaa import PiaaOptions, batch_of
from pipeline.tags.piaa.bank import learn_prototypes
from pipeline.tags.piaa.patches import BatchedScClip, PatchEncoder, Patches
from pipeline.tags.piaa.prototypes import Prototypes, combine
from pipeline.tags.reidentification import propose, reidentify
from pipeline.tags.tagger import Scored, Tagger


def build_patches(options: PiaaOptions, resources: Resources) -> tuple[PatchEncoder, torch.Tensor]:
    """Builds what gives features of patches, and the C×E embeddings that they are compared with."""
    clip, vocabulary = resources.clip, resources.vocabulary
    backgrounds = vocabulary.backgrounds if options.with_backgrounds else ()
    text = clip.embed(vocabulary.tag_names, backgrounds, options.templates)
    batch_dependent = batch_of(options, resources.quirks) > 0
    if batch_dependent:
        method = BatchedScClip(ScClipSettings())
    else:
        method = build_method(find_method("dense", options.encoder).settings())
    return PatchEncoder(clip.encoder, method, options.crop, clip.batches, batch_dependent), text


learn = partial(learn_prototypes, build_patches)
"""Makes the stages that PIAA learns in."""


@dataclass(eq=False)
class Piaa(Tagger):
    """Scores images by prototypes.

    Attributes:
        text: C×E class embeddings; n classes, then backgrounds if they are learned.
        open_border: quirk of CWR, see :func:`pipeline.clip.boxes.bounding_box`.
        cwr_stop: quirk of CWR, see :func:`pipeline.tags.reidentification.propose`.
    """

    patches: PatchEncoder
    text: torch.Tensor
    prototypes: Prototypes
    num_classes: int
    options: PiaaOptions
    open_border: bool
    cwr_stop: bool

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]], variants: Collection[str] = ()
    ) -> Iterator[tuple[Any, Scored | ImageError]]:
        """Scores images as they arrive; there are no variants."""
        for name, patches in self.patches.stream(images):
            if isinstance(patches, ImageError):
                yield name, patches
            else:
                yield name, Scored({"scores": self._of(patches)})

    @torch.no_grad()
    def _of(self, patches: Patches) -> np.ndarray:
        options = self.options
        logits = self.prototypes.logits(patches.features)
        probabilities = (logits / options.patch_temperature).softmax(-1)
        scores = combine(
            probabilities[None],
            (patches.class_token @ self.text.mT)[None],
            options.local_factor,
            options.global_factor,
            options.global_share,
        )[0, : self.num_classes]
        if not options.reidentify:
            return to_host(scores)[0]
        scores, probabilities = to_host(scores, probabilities)
        self._reidentify(patches.pixels, probabilities, scores)
        return scores

    def _reidentify(
        self, pixels: torch.Tensor, probabilities: np.ndarray, scores: np.ndarray
    ) -> None:
        """Replaces the scores of proposed classes by their mean with that of a crop."""
        encoder, size = self.patches.encoder, self.patches.batches.crops
        cut = partial(propose, patch_size=encoder.patch_size, native_size=encoder.native_size)
        quirks = {"open_border": self.open_border, "cwr_stop": self.cwr_stop}
        found = cut(pixels, probabilities, self.num_classes, alpha=self.options.alpha, **quirks)
        for start in range(0, len(found), size):
            batch = found[start : start + size]
            for proposal, crop_score in zip(batch, reidentify(encoder, self.text, batch, size)):
                scores[proposal.class_index] = (scores[proposal.class_index] + crop_score) / 2
