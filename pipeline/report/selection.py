"""Which images of a large data set a report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.measured import ImageFigures

WORST, BEST, DISAGREEING, SAMPLE = "worst", "best", "most disagreeing", "even sample"


@dataclass(frozen=True)
class Selection:
    """The images that are shown.

    Attributes:
        images: in the order of the split.
        reasons: id → why it was chosen; empty where all are shown.
        description: a sentence on what is shown.
    """

    images: list[ImageFigures]
    reasons: dict[str, str]
    description: str


def choose_images(images: Sequence[ImageFigures], most: int | None) -> Selection:
    """Chooses images: a quarter each of the worst, the best, the most disagreeing, and of all.

    Where one of these is not known, since there is no ground truth or no prediction, the others
    have its share.

    Args:
        images: all of a split.
        most: how many may be shown; none shows all.
    """
    if most is None or len(images) <= most:
        return Selection(list(images), {}, f"All {len(images):,} images are shown.")
    rankings = {
        WORST: _ranking(images, lambda f: f.iou),
        BEST: _ranking(images, lambda f: f.iou)[::-1],
        DISAGREEING: _ranking(images, lambda f: f.disagreement)[::-1],
    }
    rankings = {reason: ranking for reason, ranking in rankings.items() if ranking}
    share = most // (len(rankings) + 1)
    chosen: dict[int, str] = {}
    for reason, ranking in rankings.items():
        new = [index for index in ranking if index not in chosen]
        chosen |= dict.fromkeys(new[:share], reason)
    rest = [index for index in range(len(images)) if index not in chosen]
    places = np.linspace(0, len(rest) - 1, most - len(chosen)).round().astype(int)
    chosen |= {rest[place]: SAMPLE for place in places.tolist()}
    counts = [
        f"{sum(r == reason for r in chosen.values())} {_PHRASES[reason]}"
        for reason in (*rankings, SAMPLE)
    ]
    return Selection(
        [images[index] for index in sorted(chosen)],
        {images[index].sample.id: reason for index, reason in chosen.items()},
        f"{len(chosen):,} of {len(images):,} images are shown: {', '.join(counts[:-1])}"
        f"{' and ' if counts[:-1] else ''}{counts[-1]}; report.images=null shows all.",
    )


_PHRASES = {
    WORST: "with the lowest IoU",
    BEST: "with the highest",
    DISAGREEING: "in which mask and prediction differ most",
    SAMPLE: "at even distances from the rest",
}


def _ranking(
    images: Sequence[ImageFigures], value: Callable[[ImageFigures], float | None]
) -> list[int]:
    """Returns the indices of the images whose value is known, the lowest first."""
    known = [
        (found, index) for index, image in enumerate(images) if (found := value(image)) is not None
    ]
    return [index for _, index in sorted(known)]
