"""What scores images, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.clip.shared_pass import Listener, Name, Seen


@dataclass(frozen=True)
class Scored:
    """What became of an image.

    Attributes:
        scores: "scores", n float32 in [0, 1], and the same for every variant that was asked for.
        seen: what the maps need of the backbone's pass; none unless it was asked for.
    """

    scores: dict[str, np.ndarray]
    seen: Seen | None = None


class Scorer(Protocol):
    """Scores the classes of images."""

    def stream(
        self,
        images: Iterable[tuple[Name, np.ndarray]],
        variants: Collection[str] = (),
        listen: Callable[[], Listener] | None = None,
    ) -> Iterator[tuple[Name, Scored]]:
        """Scores images as they come, in batches.

        Args:
            images: names, and H×W×3 uint8, RGB.
            variants: rows of the ablation to compute as well.
            listen: makes what listens to a batch's attentions for the maps, which makes the results
                hold what the backbone has seen.

        Yields:
            Names and results, in any order.
        """
