"""The images of a large data set that a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.measured import ImageFigures

WORST, BEST, DISAGREEING, SAMPLE = "worst", "best", "most disagreeing", "even sample"
_PHRASES = {
    WORST: "with the lowest IoU",
    BEST: "with the highest",
    DISAGREEING: "in which mask and prediction differ most",
    SAMPLE: "at even distances from the rest",
}


@dataclass(frozen=True)
class Selection:
    """The images that are shown, in the order of the split.

    Attributes:
        reasons: id → why it was selected; empty if all images are shown.
        description: a sentence on what is shown.
    """

    images: list[ImageFigures]
    reasons: dict[str, str]
    description: str


def choose_images(images: Sequence[ImageFigures], max_images: int | None) -> Selection:
    """Selects a quarter each of the worst, the best and the most disagreeing images, and of all.

    If a ranking is not known, without ground truth or predictions, the others share its quarter.
    Without ``max_images``, all are selected.
    """
    if max_images is None or len(images) <= max_images:
        return Selection(list(images), {}, f"All {len(images):,} images are shown.")
    rankings = {
        WORST: _ranking(images, lambda f: f.iou),
        BEST: _ranking(images, lambda f: f.iou)[::-1],
        DISAGREEING: _ranking(images, lambda f: f.disagreement)[::-1],
    }
    rankings = {reason: ranking for reason, ranking in rankings.items() if ranking}
    share = max_images // (len(rankings) + 1)
    chosen: dict[int, str] = {}
    for reason, ranking in rankings.items():
        new = [index for index in ranking if index not in chosen]
        chosen |= dict.fromkeys(new[:share], reason)
    rest = [index for index in range(len(images)) if index not in chosen]
    places = np.linspace(0, len(rest) - 1, max_images - len(chosen)).round().astype(int)
    chosen |= {rest[place]: SAMPLE for place in places.tolist()}
    counts = Counter(chosen.values())
    phrases = [f"{counts[reason]} {_PHRASES[reason]}" for reason in (*rankings, SAMPLE)]
    listed = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
    return Selection(
        [images[index] for index in sorted(chosen)],
        {images[index].sample.id: reason for index, reason in chosen.items()},
        f"{len(chosen):,} of {len(images):,} images are shown: {listed}; report.images=null shows"
        " all.",
    )


def _ranking(
    images: Sequence[ImageFigures], value: Callable[[ImageFigures], float | None]
) -> list[int]:
    """Returns the indices of the images whose value is known, the lowest first."""
    known = [index for index, image in enumerate(images) if value(image) is not None]
    return sorted(known, key=lambda index: value(images[index]))
