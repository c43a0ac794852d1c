"""The interface of mask refiners, which label the pixels of an image, given its CAMs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.clip.settings import MethodOptions
from pipeline.configuration.settings import setting
from pipeline.datasets.settings import AnnotationSettings
from pipeline.errors import ImageError

Given = tuple[Any, np.ndarray, Cams]
"""The name of an image, the image and its CAMs."""

Labelled = tuple[np.ndarray, np.ndarray | None]
"""Labels and their probability."""


@dataclass
class MaskOptions(MethodOptions, AnnotationSettings):
    """Settings of all choices of ``masks=``; those of annotations are for files of masks.

    Attributes:
        beta: β of the background, (1 − max cam)^β; null if the classes cover everything, so that
            the best CAM wins.
        confidence: pixels below this probability become 255; CLIP-ES trains with 0.95.
        corrections: masks drawn by hand, which replace those of their images: files as for
            ``masks=file``. The cache key holds their contents for each split, not their name.
    """

    beta: float | None = setting(1.0, above=0)
    confidence: float = setting(0.0, at_least=0, at_most=1)
    corrections: str | None = setting(
        None, changes="images", why="the key holds the contents of the files, for each split"
    )


class Refiner(ABC):
    """Labels the pixels of images."""

    @abstractmethod
    def __call__(self, image: np.ndarray, cams: Cams) -> Labelled:
        """Labels every pixel of an image, h×w×3 uint8, RGB, perhaps shrunk.

        Returns:
            The labels in the image's full size, H×W uint8: 0 background, k+1 class k. And the
            probability of each, H×W float32; or none where there is none.
        """

    def stream(self, images: Iterable[Given]) -> Iterator[tuple[Any, Labelled | ImageError]]:
        """Labels images, each with its name and its CAMs; in batches where that is faster.

        Yields:
            Names in any order, each with what a call returns for its image, or with its ImageError.
        """
        for name, image, cams in images:
            yield name, labelled(self, image, cams)


def labelled(refine: Callable[..., Labelled], *arguments: Any) -> Labelled | ImageError:  # noqa: ANN401
    """Returns the labels of an image, or its ImageError."""
    try:
        return refine(*arguments)
    except ImageError as error:
        return error
