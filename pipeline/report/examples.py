"""Pictures for people: what was computed for an image, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import skimage.color
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from pipeline.cams.stage import Cams
from pipeline.datasets.vocabulary import IGNORE, Vocabulary
from pipeline.files.images import limit_longest_side

_SIDE, _GAP, _TEXT = 240, 8, 22  # pixels
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_OPACITY = 0.6


@dataclass(frozen=True)
class Example:
    """One image with what the stages made of it.

    Attributes:
        name: the image's id.
        image: h×w×3 uint8, RGB.
        cams: its maps.
        mask: H×W uint8, the pseudo mask.
        prediction: H×W uint8, the segmenter's; none before there is one.
        truth: H×W uint8; none where there is no ground truth.
    """

    name: str
    image: np.ndarray
    cams: Cams
    mask: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None


def overlay_labels(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Paints labels over a grey image; the background darkens, what is ignored turns white.

    Args:
        image: h×w×3 uint8, RGB.
        labels: H×W uint8; resized to the image.
        palette: n+1 colours.

    Returns:
        h×w×3 uint8.
    """
    size = (image.shape[1], image.shape[0])
    labels = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    labels[labels == IGNORE] = len(palette)
    colours = np.array([*palette[1:], _PAPER], np.float64) / 255
    # label2rgb hands colours to the labels that occur, in order; it needs one even for none.
    occurring = [label for label in np.unique(labels) if label > 0] or [1]
    painted = skimage.color.label2rgb(
        labels,
        128 + image // 2,  # pale, since the palette of VOC has dark colours
        colors=[colours[label - 1] for label in occurring],
        alpha=_OPACITY,
        bg_label=0,
        bg_color=(0, 0, 0),  # dark, so that VOC's greys and white stand out
        saturation=0.3,
    )
    return (painted * 255).round().astype(np.uint8)


def overlay_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Paints a map, h×w in [0, 1], over an image of its size as heat: h×w×3 uint8."""
    colours = colormaps["inferno"](heat)[..., :3] * 255
    return (0.4 * image + 0.6 * colours).round().astype(np.uint8)


def contact_sheet(examples: Sequence[Example], vocabulary: Vocabulary) -> bytes:
    """Lays out a row for every example, and a legend, as a PNG file."""
    columns = ["photograph", "map of the first tag", "pseudo mask", "segmenter", "ground truth"]
    rows = [_row(example, vocabulary) for example in examples]
    used = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    heights = [row[0].shape[0] for row in rows]
    width = _GAP + len(used) * (_SIDE + _GAP)
    height = _TEXT + sum(heights) + len(rows) * (_GAP + _TEXT) + 2 * _TEXT
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, k in enumerate(used):
        pen.text((_GAP + place * (_SIDE + _GAP), 3), columns[k], _INK, font)
    top = _TEXT
    for example, row in zip(examples, rows):
        for place, k in enumerate(used):
            if row[k] is not None:
                sheet.paste(Image.fromarray(row[k]), (_GAP + place * (_SIDE + _GAP), top))
        tags = ", ".join(vocabulary.classes[k] for k in example.cams.keys)
        top += row[0].shape[0]
        pen.text((_GAP, top + 1), f"{example.name}: {tags or 'no tag'}", _INK, font)
        top += _GAP + _TEXT
    _legend(pen, font, labels_used(examples), vocabulary, width, top)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def labels_used(examples: Sequence[Example]) -> list[int]:
    """Returns the labels that occur in any of the examples, without the background."""
    found: set[int] = set()
    for example in examples:
        for labels in (example.mask, example.prediction, example.truth):
            if labels is not None:
                found |= set(np.unique(labels).tolist())
    return sorted(found - {0, IGNORE})


def _row(example: Example, vocabulary: Vocabulary) -> list[np.ndarray | None]:
    image = limit_longest_side(example.image, _SIDE)
    heat = None
    if len(example.cams.keys):
        heat = overlay_heat(image, example.cams.resized(*image.shape[:2])[0])
    layers = (example.mask, example.prediction, example.truth)
    painted = [
        None if labels is None else overlay_labels(image, labels, vocabulary.palette)
        for labels in layers
    ]
    return [image, heat, *painted]


def _legend(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    labels: Sequence[int],
    vocabulary: Vocabulary,
    width: int,
    top: int,
) -> None:
    left = _GAP
    for label in labels:
        name = vocabulary.classes[label - 1]
        length = 18 + pen.textlength(name, font) + 14
        if left + length > width:
            left, top = _GAP, top + _TEXT
        pen.rectangle((left, top + 4, left + 13, top + 17), vocabulary.palette[label])
        pen.text((left + 18, top + 2), name, _INK, font)
        left += length
