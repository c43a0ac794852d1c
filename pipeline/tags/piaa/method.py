"""PIAA: a tagger that learns a prototype of every class from unlabelled images.

Wang et al., ICML 2026, arXiv 2605.25821; docs/other-methods.md, "Tags: PIAA".
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.clip.device import to_host
from pipeline.errors import ImageError
from pipeline.tags.piaa import PiaaOptions
from pipeline.tags.piaa.patches import PatchEncoder, Patches
from pipeline.tags.piaa.prototypes import Prototypes, combine
from pipeline.tags.reidentification import Cwr
from pipeline.tags.tagger import Scored, Tagger


@dataclass(eq=False)
class Piaa(Tagger):
    """Scores images by prototypes.

    Attributes:
        text: C×E class embeddings; n classes, then backgrounds if they are learned.
        cwr: looks again at classes by the probabilities of patches.
    """

    patches: PatchEncoder
    text: torch.Tensor
    prototypes: Prototypes
    num_classes: int
    options: PiaaOptions
    cwr: Cwr

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]], variants: Collection[str] = ()
    ) -> Iterator[tuple[Any, Scored | ImageError]]:
        """Scores images as they arrive; there are no variants."""
        for name, patches in self.patches.stream(images):
            if isinstance(patches, ImageError):
                yield name, patches
            else:
                yield name, Scored({"scores": self._score(patches)})

    @torch.no_grad()
    def _score(self, patches: Patches) -> np.ndarray:
        options, size = self.options, self.patches.batches.crops
        logits = self.prototypes.logits(patches.features)
        probabilities = (logits / options.patch_temperature).softmax(-1)
        scores = combine(
            probabilities[None],
            (patches.whole_image @ self.text[:, : len(patches.whole_image)].mT)[None],
            options.local_factor,
            options.global_factor,
            options.global_share,
        )[0, : self.num_classes]
        if not options.reidentify:
            return to_host(scores)[0]
        # CWR: the scores of proposed classes are replaced by their mean with that of a crop.
        scores, probabilities = to_host(scores, probabilities)
        found = self.cwr.propose(patches.pixels, probabilities)
        for start in range(0, len(found), size):
            batch = found[start : start + size]
            for proposal, crop_score in zip(batch, self.cwr.classify(batch, size)):
                scores[proposal.class_index] = (scores[proposal.class_index] + crop_score) / 2
        return scores
