"""``examples.png``: what the stages made of a few images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.report.sheets import Tile, cam_tile, draw_sheet, label_tile, photograph_tile


@dataclass(frozen=True)
class Example:
    """One image with what the stages made of it.

    Attributes:
        name: the image's id.
        image: h×w×3 uint8, RGB.
        cams: its CAMs.
        mask: H×W uint8, the pseudo mask.
        prediction: H×W uint8, the segmenter's; none before there is one.
        truth: H×W uint8; none without ground truth.
    """

    name: str
    image: np.ndarray
    cams: Cams
    mask: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None


def contact_sheet(examples: Sequence[Example], vocabulary: Vocabulary) -> bytes:
    """Lays out a row for every example, and a legend, as a PNG file."""
    rows = [_tiles(example, vocabulary) for example in examples]
    used = [column for column, tiles in enumerate(zip(*rows)) if any(tiles)]
    images = [
        (_title(example, vocabulary), [row[column] for column in used])
        for example, row in zip(examples, rows)
    ]
    names = ("background", *vocabulary.classes)
    return draw_sheet(images, names, vocabulary.palette, len(used))


def _title(example: Example, vocabulary: Vocabulary) -> str:
    tags = ", ".join(vocabulary.classes[k] for k in example.cams.keys)
    return f"{example.name}: {tags or 'no tag'}"


def _tiles(example: Example, vocabulary: Vocabulary) -> list[Tile | None]:
    image, first = example.image, Cams(example.cams.keys[:1], example.cams.cams[:1], (0, 0))
    heat = None
    if len(first.keys):
        heat = cam_tile(image, first, f"CAM of {vocabulary.classes[first.keys[0]]}")
    labelled = [
        (example.mask, "pseudo mask"),
        (example.prediction, "segmenter"),
        (example.truth, "ground truth"),
    ]
    return [
        photograph_tile(image, "photograph"),
        heat,
        *(
            None if labels is None else label_tile(image, labels, vocabulary.palette, caption)
            for labels, caption in labelled
        ),
    ]
