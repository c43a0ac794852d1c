"""Testing a segmenter as the tables do: at one scale, at several and mirrored, and with the CRF."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.datasets.sample import Sample
from pipeline.engine.pool import in_processes
from pipeline.errors import ImageError
from pipeline.masks.crf import CrfSettings
from pipeline.masks.labels import resized_argmax
from pipeline.segmenter.inference import check_scales, refine

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

SINGLE_SCALE, MULTI_SCALE, CRF = "single_scale", "multi_scale", "crf"


@dataclass(frozen=True)
class Testing:
    """How images are segmented.

    Attributes:
        scales: factors that an image is resized by; probabilities are averaged.
        flip: whether the mirror image counts too.
        crf: the CRF's constants; none ends without it.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: CrfSettings | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Testing:
        """Reads ``segmenter.test``: scales, flip and crf.

        Raises:
            UserError: there are no scales, or one is not above 0.
        """
        scales, crf = tuple(settings["scales"]), settings["crf"]
        check_scales(scales)
        return cls(scales, settings["flip"], crf and CrfSettings(**crf, bgr=False, fp16=False))

    @property
    def steps(self) -> list[str]:
        """The results there are of every image, the last of which is the prediction."""
        several = self.flip or self.scales != (1.0,)
        return [SINGLE_SCALE, *([MULTI_SCALE] * several), *([CRF] * (self.crf is not None))]


@dataclass(frozen=True)
class _Seen:
    """What a network saw in an image, on its way to the CRF."""

    sample: Sample
    labels: dict[str, np.ndarray]
    image: np.ndarray
    probabilities: np.ndarray
    size: tuple[int, int]


Labels = dict[str, np.ndarray]
"""Step → H×W uint8, of the image's full size."""


def segment_all(
    found: Iterable[tuple[Sample, tuple[np.ndarray, tuple[int, int]] | ImageError]],
    segmenter: Callable[[], Segmenter],
    testing: Testing,
    workers: int,
) -> Iterator[tuple[Sample, Labels | ImageError]]:
    """Segments images by every step; the CRF runs in processes behind the network.

    Args:
        found: samples, each with its image, H×W×3 uint8 and perhaps shrunk, and its full size; or
            why there is none.
        segmenter: builds the network; called only when there is an image.
        testing: the steps.
        workers: processes for the CRF.
    """
    unreadable: deque[tuple[Sample, ImageError]] = deque()

    def look() -> Iterator[_Seen]:
        network = None
        for sample, image in found:
            if isinstance(image, ImageError):
                unreadable.append((sample, image))
                continue
            network = network or segmenter()
            yield _look(network, sample, *image, testing)

    if testing.crf is None:
        results = ((seen, seen.labels) for seen in look())
    else:
        results = in_processes(look(), partial(_refine, crf=testing.crf), workers)
    for seen, labels in results:
        while unreadable:
            yield unreadable.popleft()
        yield seen.sample, labels
    yield from unreadable


def _look(
    segmenter: Segmenter,
    sample: Sample,
    image: np.ndarray,
    size: tuple[int, int],
    testing: Testing,
) -> _Seen:
    total, plain = 0, None
    for is_plain, view in segmenter.views(image, testing.scales, testing.flip):
        total += view
        plain = view.cpu().numpy() if is_plain else plain
    plain = segmenter.probabilities(image) if plain is None else plain
    probabilities = (total / (len(testing.scales) * (1 + testing.flip))).cpu().numpy()
    labels = {SINGLE_SCALE: _labels(plain, size)}
    if MULTI_SCALE in testing.steps:
        labels[MULTI_SCALE] = _labels(probabilities, size)
    return _Seen(sample, labels, image, probabilities, size)


def _refine(seen: _Seen, crf: CrfSettings) -> Labels:
    """Does the last step for one image, in whatever process."""
    sharpened = refine(seen.image, seen.probabilities, crf)
    return {**seen.labels, CRF: _labels(sharpened, seen.size)}


def _labels(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resized_argmax(probabilities, *size)[0]
