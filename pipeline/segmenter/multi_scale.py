"""Testing a segmenter as the tables do: at one scale, at several and mirrored, and with the CRF.

This module does not import mmsegmentation, so that worker processes for the CRF start quickly.
"""

from collections.abc import Iterator
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

_Seen = tuple[Item, LabelMaps, np.ndarray, np.ndarray]
"""An item, its labels so far, its image and the network's probabilities, on the way to the CRF."""


def segment_all(
    images: Decoded, segmenter: "Segmenter", test: TestSettings, workers: int
) -> Iterator[tuple[Item, LabelMaps | ImageError]]:
    """Segments images by every step; the CRF runs in processes behind the network.

    Yields each item with its labels, or with an ImageError if the CRF fails.
    """
    seen = (_look(segmenter, item, image, test) for item, image in images)
    if test.crf is None:
        return ((item, labels) for item, labels, *_ in seen)
    refined = in_processes(seen, partial(_refine, crf=test.crf), workers)
    return ((each[0], labels) for each, labels in refined)


def _look(segmenter: "Segmenter", item: Item, image: np.ndarray, test: TestSettings) -> _Seen:
    total, plain = 0, None
    for is_plain, view in segmenter.views(image, test.scales, test.flip):
        total += view
        plain = segmenter.finite(view) if is_plain else plain
    plain = segmenter.probabilities(image) if plain is None else plain
    probabilities = segmenter.finite(total / (len(test.scales) * (1 + test.flip)))
    labels = {SINGLE_SCALE: resized_argmax(plain, *item.size)[0]}
    if MULTI_SCALE in test.steps:
        labels[MULTI_SCALE] = resized_argmax(probabilities, *item.size)[0]
    return item, labels, image, probabilities


def _refine(seen: _Seen, crf: CrfOptions) -> LabelMaps:
    """Does the last step for one image, in whatever process."""
    item, labels, image, probabilities = seen
    return {**labels, CRF: resized_argmax(dense_crf(image, probabilities, crf), *item.size)[0]}
