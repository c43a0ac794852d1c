"""The interface of taggers, which score the classes of images; thresholds turn scores into tags."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ImageError, UserError
from pipeline.tags.options import (
    ScoredTagOptions as ScoredTagOptions,  # beside Tagger, for plug-ins
)
from pipeline.tags.options import TagOptions as TagOptions

if TYPE_CHECKING:
    from pipeline.clip.shared_pass import SharedPass

STANDARDISED = "z"
"""The row of scores from which tags follow with ``tags.standardise``."""


@dataclass(frozen=True)
class Scored:
    """The scores of one image.

    Attributes:
        scores: "scores", n float32 in [0, 1], and the same for each requested variant.
        shared_pass: what CAMs can be computed from; none unless it was requested.
    """

    scores: dict[str, np.ndarray]
    shared_pass: SharedPass | None = None


class Tagger:
    """Scores images; a subclass gives :meth:`scores`, or :meth:`stream` to process batches."""

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Returns how much each class is in an image, H×W×3 uint8, RGB: n float32 in [0, 1]."""
        raise UserError(f"the tagger {type(self).__name__} has no method scores(image): add it")

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]], variants: Collection[str] = ()
    ) -> Iterator[tuple[Any, Scored | ImageError]]:
        """Yields a name and its scores, or why it has none, for each name and image, in any order.

        A tagger that shares a pass with CAMs also takes ``cam_hooks``, the
        :meth:`~pipeline.cams.pass_method.PassCams.hooks` of their method, and its results then
        hold the shared pass.

        Args:
            images: names, and H×W×3 uint8, RGB.
            variants: further rows of scores to compute, of those that the method declares.
        """
        for name, image in images:
            try:
                yield name, Scored({"scores": self.scores(image)})
            except ImageError as error:
                yield name, error


def image_threshold(scores: np.ndarray, alpha: float, min_score: float) -> float:
    """Returns the threshold that is shown of an image's scores; :func:`choose_tags` applies it."""
    low, high = float(scores.min()), float(scores.max())
    return max(low + alpha * (high - low), min_score)


def choose_tags(scores: np.ndarray, alpha: float, min_score: float = 0.0) -> tuple[int, ...]:
    """Returns the classes above θ_img = min + α·(max − min) of an image's scores, sorted.

    If no class is above it, the best class is the tag. With a ``min_score`` above 0, tags must also
    exceed that, so that an image without any of the classes has no tag.
    """
    low, high = scores.min(), scores.max()
    chosen = np.flatnonzero(scores > low + alpha * (high - low))
    if not len(chosen):
        chosen = np.array([scores.argmax()])
    return tuple(int(k) for k in chosen if min_score == 0 or scores[k] > min_score)
