"""Testing a segmenter as the tables do: at one scale, at several and mirrored, and with the CRF.

This module does not import mmsegmentation, so that worker processes for the CRF start quickly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine.pool import in_processes
from pipeline.engine.stage import Decoded, Item
from pipeline.errors import ImageError
from pipeline.masks.crf import CrfOptions, dense_crf
from pipeline.masks.labels import resized_argmax
from pipeline.segmenter.settings import CRF, MULTI_SCALE, SINGLE_SCALE, TestSettings

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

LabelMaps = dict[str, np.ndarray]
"""Step → H×W uint8, of the image's full size."""


@dataclass(frozen=True)
class _Seen:
    """The output of a network for an image, on its way to the CRF."""

    item: Item
    labels: LabelMaps
    image: np.ndarray
    probabilities: np.ndarray


def segment_all(
    images: Decoded, segmenter: Segmenter, test: TestSettings, workers: int
) -> Iterator[tuple[Item, LabelMaps | ImageError]]:
    """Segments images by every step; the CRF runs in processes behind the network."""
    seen = (_look(segmenter, item, image, test) for item, image in images)
    if test.crf is None:
        return ((each.item, each.labels) for each in seen)
    refined = in_processes(seen, partial(_refine, crf=test.crf), workers)
    return ((each.item, labels) for each, labels in refined)


def _look(segmenter: Segmenter, item: Item, image: np.ndarray, test: TestSettings) -> _Seen:
    total, plain = 0, None
    for is_plain, view in segmenter.views(image, test.scales, test.flip):
        total += view
        plain = segmenter.finite(view) if is_plain else plain
    plain = segmenter.probabilities(image) if plain is None else plain
    probabilities = segmenter.finite(total / (len(test.scales) * (1 + test.flip)))
    labels = {SINGLE_SCALE: resized_argmax(plain, *item.size)[0]}
    if MULTI_SCALE in test.steps:
        labels[MULTI_SCALE] = resized_argmax(probabilities, *item.size)[0]
    return _Seen(item, labels, image, probabilities)


def _refine(seen: _Seen, crf: CrfOptions) -> LabelMaps:
    """Does the last step for one image, in whatever process."""
    sharpened = dense_crf(seen.image, seen.probabilities, crf)
    return {**seen.labels, CRF: resized_argmax(sharpened, *seen.item.size)[0]}
