"""The size at which a network sees an image: one rule for training, prediction and export."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.clip.dimensions import patch_grid
from pipeline.files.images import limit_longest_side

USUAL_SIDE = 1024
"""The longest side, in pixels, of photographs for a network that was trained without a limit."""


class Limits(NamedTuple):
    """What a network sees of an image at most; larger images are shrunk.

    Attributes:
        longest_side: in pixels; none for no limit.
        patches: the patch size in pixels, and the number of patches; none for no limit.
        size: the only height and width that a graph takes, whatever its patches; none for any.
    """

    longest_side: int | None = None
    patches: Sequence[int] | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Limits":
        """Reads what a file says; a ValueError or TypeError for anything but whole numbers."""
        side, patches, size = found = cls(**given)
        numbers = [1 if side is None else side, *((1, 1) if patches is None else patches)]
        if size or [*map(type, numbers)] != [int] * 3 or min(numbers) < 1:
            raise ValueError("no limits on images")
        return found

    def for_photographs(self, longest_side: int | None = None) -> "Limits":
        """Returns the limits outside a run: always with a longest side, perhaps a given one."""
        return self._replace(longest_side=longest_side or self.longest_side or USUAL_SIDE)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Returns an image, H×W×3 uint8, as the network sees it."""
        image = limit_longest_side(image, self.longest_side)
        size = self.size or image.shape[:2]
        if self.patches and not self.size:
            counts = patch_grid(*size, *self.patches)
            size = tuple(min(side, n * self.patches[0]) for side, n in zip(size, counts))
        if size == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
