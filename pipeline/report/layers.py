"""The embedded pictures of a page: photographs, and transparent layers over them.

A layer is transparent where it shows nothing, so that one photograph serves all layers and the
reader can choose their opacity.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from pipeline.files.label_images import IGNORE
from pipeline.report.painting import HEAT, WHITE, Colour, hatching, paint_labels, resize_labels

SAME, MISSED, EXTRA, CONFUSED = range(4)
"""How two masks compare in a pixel: the same label, an object only in the second, an object only in
the first, or objects of different classes."""

DIFFERENCE_COLOURS = {MISSED: (41, 121, 255), EXTRA: (255, 143, 0), CONFUSED: (214, 51, 156)}
"""Distinct for colour-blind readers too; each kind also has its own hatching."""

_HEAT_SIDE = 200  # pixels; CAMs are smooth, so that larger ones show no more
_PHOTOGRAPH_QUALITY, _HEAT_QUALITY = 80, 70
_EFFORT = 0  # of lossless compression, up to 100; more takes twice the time and saves 1%
_PLACE_SIDE = 96  # pixels of the labels in which places for names are sought
_MIN_NAMED = 0.005  # of the pixels


class Place(NamedTuple):
    """The position of the name of a label, in percent of the picture's width and height."""

    label: int
    left: float
    top: float


def encode_photograph(image: np.ndarray) -> str:
    """Returns an image, h×w×3 uint8, as a ``data:`` address."""
    return _embed(Image.fromarray(image), quality=_PHOTOGRAPH_QUALITY)


def encode_heat(cam: np.ndarray) -> str:
    """Returns a CAM, h×w in [0, 1], as heat that is transparent where it is cold."""
    height, width = cam.shape
    factor = min(1, _HEAT_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = Image.fromarray(cam.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(small), 0, 1)
    pixels = HEAT(values, bytes=True)
    pixels[..., 3] = np.rint(225 * np.clip(2 * values, 0, 1))
    return _embed(Image.fromarray(pixels), quality=_HEAT_QUALITY)


def encode_labels(labels: np.ndarray, palette: Sequence[Colour]) -> str:
    """Returns painted labels, h×w uint8."""
    return _embed(Image.fromarray(paint_labels(labels, palette)), lossless=True, quality=_EFFORT)


def compare_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns how two masks of one size compare, H×W uint8; 255 where either is ignored."""
    ignored = (first == IGNORE) | (second == IGNORE)
    cases = [ignored, first == second, first == 0, second == 0]
    return np.select(cases, [IGNORE, SAME, MISSED, EXTRA], CONFUSED).astype(np.uint8)


def encode_difference(kinds: np.ndarray) -> str:
    """Returns the result of :func:`compare_labels` in colours and hatchings."""
    falling, rising = hatching(kinds.shape), hatching(kinds.shape, rising=True)
    lines = {MISSED: rising, EXTRA: falling, CONFUSED: rising | falling}
    pixels = np.zeros((*kinds.shape, 4), np.uint8)
    for kind, colour in DIFFERENCE_COLOURS.items():
        pixels[kinds == kind] = (*colour, 205)
        pixels[(kinds == kind) & lines[kind]] = (*WHITE, 235)
    return _embed(Image.fromarray(pixels), lossless=True, quality=_EFFORT)


def find_places(labels: np.ndarray) -> list[Place]:
    """Returns where the names of labels have most room; tiny and ignored regions get no name."""
    height, width = labels.shape
    factor = min(1, _PLACE_SIDE / max(height, width))
    small = resize_labels(labels, max(1, round(height * factor)), max(1, round(width * factor)))
    places = []
    for label in np.unique(small).tolist():
        region = small == label
        if label in (0, IGNORE) or region.mean() < _MIN_NAMED:
            continue
        room = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(room.argmax(), room.shape)
        left, top = 100 * (column + 0.5) / small.shape[1], 100 * (row + 0.5) / small.shape[0]
        places.append(Place(label, round(left, 1), round(top, 1)))
    return places


def _embed(picture: Image.Image, **options: bool | int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", method=4, **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
