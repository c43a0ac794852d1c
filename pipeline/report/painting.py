"""A picture for people: what a network sees, painted over the photograph, with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter, minimum_filter

from pipeline.datasets.vocabulary import IGNORE

_INK, _PAPER, _FAINT = (30, 30, 30), (255, 255, 255), (150, 150, 150)
_SMALLEST_SIDE = 480  # pixels of the longer side; smaller photographs are enlarged
_SMALLEST_TEXT = 14  # pixels


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    opacity: float = 0.5,
) -> np.ndarray:
    """Tints and outlines the regions of a photograph, with a legend below it.

    The background keeps the photograph's colours; what is ignored, label 255, turns white. The
    legend names what is there, the largest first, with its share of the pixels.

    Args:
        image: H×W×3 uint8, RGB.
        labels: h×w uint8; resized to the image where it has another size.
        class_names: n+1 names, the background's first.
        palette: n+1 colours, RGB in [0, 255].
        opacity: of the tint in [0, 1]; outlines are opaque.

    Returns:
        H'×W'×3 uint8: the photograph in its own size, or in a whole multiple of it where that is
        below 480 pixels, and the legend, which may also be wider.

    Raises:
        ValueError: a label without a name, or as many colours as names are not given.
    """
    shares = _shares(labels)
    if len(class_names) != len(palette):
        raise ValueError(f"{len(palette)} colours for {len(class_names)} names")
    if any(label >= len(class_names) for label in shares if label != IGNORE):
        raise ValueError(f"labels {sorted(shares)} for {len(class_names)} names")
    photograph = Image.fromarray(image)
    factor = max(1, math.ceil(_SMALLEST_SIDE / max(photograph.size)))
    size = (photograph.width * factor, photograph.height * factor)
    photograph = photograph.resize(size, Image.Resampling.BICUBIC) if factor > 1 else photograph
    labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    painted = _paint(photograph, labels, _colours(palette), opacity)
    entries = [
        (_name(label, class_names), _colours(palette)[label] if label else None, share)
        for label, share in shares.items()
    ]
    return np.asarray(_with_legend(painted, entries))


def _shares(labels: np.ndarray) -> dict[int, float]:
    """Returns the share of every label that occurs, the largest first, the background last."""
    counts = np.bincount(labels.ravel(), minlength=256)
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda label: (label == 0, -counts[label]))
    return {label: counts[label] / labels.size for label in order}


def _name(label: int, class_names: Sequence[str]) -> str:
    return "ignored" if label == IGNORE else class_names[label]


def _colours(palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    colours = np.full((256, 3), _PAPER, np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE] = _PAPER
    return colours


def _paint(
    photograph: Image.Image, labels: np.ndarray, colours: np.ndarray, opacity: float
) -> Image.Image:
    """Tints regions, and draws a line of their colour, and a white one around it, along edges."""
    width = max(1, round(max(photograph.size) / 500))
    opacities = np.where(labels > 0, round(255 * opacity), 0).astype(np.uint8)
    opacities[(labels > 0) & _near_an_edge(labels, width)] = 255
    tint = Image.fromarray(colours[labels])
    painted = Image.composite(tint, photograph, Image.fromarray(opacities))
    # Without it a dark colour is lost on a dark photograph.
    white = (labels == 0) & _near_an_edge(labels, max(1, width // 2))
    painted.paste(_PAPER, mask=Image.fromarray(white))
    return painted


def _near_an_edge(labels: np.ndarray, distance: int) -> np.ndarray:
    """Tells which pixels have another label within a distance: H×W bool."""
    side = 2 * distance + 1
    return maximum_filter(labels, side) != minimum_filter(labels, side)


def _with_legend(
    painted: Image.Image, entries: Sequence[tuple[str, np.ndarray | None, float]]
) -> Image.Image:
    """Adds rows of a patch of colour, a name and a share; the background's patch is crossed."""
    text = max(_SMALLEST_TEXT, round(min(max(painted.size) / 45, painted.width / 22)))
    font = ImageFont.truetype(_font(), text)
    gap, row, box = round(text * 0.6), round(text * 1.8), round(text * 0.95)
    phrases = [f"{name} {_percent(share)}" for name, _, share in entries]
    lengths = [math.ceil(box + gap + font.getlength(phrase) + 2 * gap) for phrase in phrases]
    width = max(painted.width, gap + max(lengths))
    places, left, top = [], gap, painted.height + gap
    for length in lengths:
        if left > gap and left + length > width:
            left, top = gap, top + row
        places.append((left, top))
        left += length
    sheet = Image.new("RGB", (width, top + row + gap // 2), _PAPER)
    sheet.paste(painted, ((width - painted.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    for (left, top), (_, colour, _), phrase in zip(places, entries, phrases):
        patch = (left, top + (row - box) // 2, left + box, top + (row - box) // 2 + box)
        line = max(1, text // 14)
        pen.rectangle(patch, None if colour is None else tuple(colour.tolist()), _FAINT, line)
        if colour is None:
            pen.line((patch[0], patch[3], patch[2], patch[1]), _FAINT, line)
        pen.text((left + box + gap, top + row // 2), phrase, _INK, font, anchor="lm")
    return sheet


def _percent(share: float) -> str:
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _font() -> Path:
    # Pillow's own font has no letters beyond Latin ones.
    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
