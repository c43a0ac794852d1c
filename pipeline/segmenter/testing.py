"""Testing a segmenter as the tables do: at one scale, at several and mirrored, and with the CRF."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from pipeline.engine.pool import in_processes
from pipeline.errors import ImageError
from pipeline.masks.crf import CrfOptions
from pipeline.masks.labels import resized_argmax
from pipeline.segmenter.inference import check_scales, refine
from pipeline.segmenter.settings import TestSettings

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
    crf: CrfOptions | None = None

    @classmethod
    def from_settings(cls, settings: TestSettings) -> Testing:
        """Returns the steps that ``segmenter.test`` asks for.

        Raises:
            UserError: there are no scales.
        """
        check_scales(settings.scales)
        crf = settings.crf and settings.crf.on_plain_images()
        return cls(tuple(settings.scales), settings.flip, crf)

    @property
    def steps(self) -> list[str]:
        """The results there are of every image, the last of which is the prediction."""
        several = self.flip or self.scales != (1.0,)
        return [SINGLE_SCALE, *([MULTI_SCALE] * several), *([CRF] * (self.crf is not None))]


Name = TypeVar("Name")
"""Whatever identifies an image; it is sent to other processes."""


@dataclass(frozen=True)
class _Seen(Generic[Name]):
    """The output of a network for an image, on its way to the CRF."""

    name: Name
    labels: dict[str, np.ndarray]
    image: np.ndarray
    probabilities: np.ndarray
    size: tuple[int, int]


Labels = dict[str, np.ndarray]
"""Step → H×W uint8, of the image's full size."""


def segment_all(
    images: Iterable[tuple[Name, tuple[np.ndarray, tuple[int, int]] | ImageError]],
    segmenter: Callable[[], Segmenter],
    testing: Testing,
    workers: int,
) -> Iterator[tuple[Name, Labels | ImageError]]:
    """Segments images by every step; the CRF runs in processes behind the network.

    Args:
        images: names, each with its image, H×W×3 uint8 and perhaps shrunk, and its full size; or
            why there is none.
        segmenter: builds the network; called only when there is an image.
        testing: the steps.
        workers: processes for the CRF.
    """
    unreadable: deque[tuple[Name, ImageError]] = deque()

    def look() -> Iterator[_Seen]:
        network = None
        for name, image in images:
            if isinstance(image, ImageError):
                unreadable.append((name, image))
                continue
            network = network or segmenter()
            yield _look(network, name, *image, testing)

    if testing.crf is None:
        results = ((seen, seen.labels) for seen in look())
    else:
        results = in_processes(look(), partial(_refine, crf=testing.crf), workers)
    for seen, labels in results:
        while unreadable:
            yield unreadable.popleft()
        yield seen.name, labels
    yield from unreadable


def _look(
    segmenter: Segmenter,
    name: Name,
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
    return _Seen(name, labels, image, probabilities, size)


def _refine(seen: _Seen, crf: CrfOptions) -> Labels:
    """Does the last step for one image, in whatever process."""
    sharpened = refine(seen.image, seen.probabilities, crf)
    return {**seen.labels, CRF: _labels(sharpened, seen.size)}


def _labels(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resized_argmax(probabilities, *size)[0]
