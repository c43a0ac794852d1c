"""The interface of taggers that score classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.clip.shared_pass import AttentionRecorder, Name, SharedPass


@dataclass(frozen=True)
class Scored:
    """The scores of one image.

    Attributes:
        scores: "scores", n float32 in [0, 1], and the same for each requested variant.
        shared_pass: what CAMs can be computed from; none unless it was requested.
    """

    scores: dict[str, np.ndarray]
    shared_pass: SharedPass | None = None


class Scorer(Protocol):
    """Scores the classes of images."""

    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], AttentionRecorder] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images as they arrive, in batches.

        Args:
            images: names, and H×W×3 uint8, RGB.
            variants: rows of the ablation to compute as well.
            listen: builds the attention recorder of a batch; if given, the results hold the shared
                pass for the CAMs.

        Yields:
            Names and results, in any order.
        """
