"""The interface of CAM methods, which locate each tag in an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.clip.settings import CamOptions  # noqa: F401  which authors import from here
from pipeline.errors import ImageError, UserError

if TYPE_CHECKING:
    import numpy as np


class CamMethod:
    """Computes CAMs; a subclass gives :meth:`cams`, or :meth:`stream` to process batches."""

    def cams(self, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
        """Returns the CAM of each of K tags in an image, H×W×3 uint8, RGB.

        They are K×h×w float32 in [0, 1] on a grid of any size; tags are class indices.
        """
        raise UserError(f"{type(self).__name__} has no method cams(image, tags): add it")

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray, Sequence[int]]]
    ) -> Iterator[tuple[Any, np.ndarray | ImageError]]:
        """Yields a name and its CAMs, or why it has none, for each image, in any order."""
        for name, image, tags in images:
            try:
                yield name, self.cams(image, tags)
            except ImageError as error:
                yield name, error
