"""Masks of other programs: palette, grey and coloured PNGs, read as labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError
from pipeline.exchange.colour_tables import Colour
from pipeline.files.images import MODES_OF_16_BITS
from pipeline.files.label_images import GREY, IGNORE, PALETTE, decode_png

_MAX_NAMED = 3
_OPAQUE = 255
_ONE_NUMBER = (PALETTE, GREY, "1", *MODES_OF_16_BITS)
_SEVERAL = ("LA", "RGB", "RGBA")


def read_foreign_mask(
    path: Path,
    num_classes: int,
    colours: Mapping[Colour, int],
    palette_by_colour: bool = False,
) -> np.ndarray:
    """Reads the labels of a mask from any kind of PNG.

    Args:
        path: the file. Palette and grey PNGs of 1 to 16 bits hold labels; in others, colours stand
            for labels.
        num_classes: n; labels are 0 to n, and 255.
        colours: colour → label.
        palette_by_colour: whether a palette's colours stand for labels instead of its indices.

    Returns:
        H×W uint8; 0 background, k+1 class k, 255 ignore.

    Raises:
        ImageError: the file is missing, is not a PNG, is damaged, has transparent pixels, or has
            unknown colours or labels: says which, how many pixels, and where the first is.
    """
    try:
        mode, values, palette = decode_png(path, (*_ONE_NUMBER, *_SEVERAL))
    except FileNotFoundError as error:
        raise ImageError("is missing") from error
    if mode == PALETTE and palette_by_colour:
        return _by_colour(palette[values], colours)
    if mode in _ONE_NUMBER:
        return _by_label(values.astype(np.int64), num_classes)
    if mode.endswith("A"):
        _refuse_transparent(values[..., -1])
    if mode == "LA":
        return _by_label(values[..., 0].astype(np.int64), num_classes)
    return _by_colour(values[..., :3], colours)


def _by_label(values: np.ndarray, num_classes: int) -> np.ndarray:
    known = (values <= num_classes) | (values == IGNORE)
    if not known.all():
        unknown = _unknown(values, known, lambda value: f"label {value}")
        raise ImageError(f"holds {unknown}, where labels are 0 to {num_classes} and {IGNORE}")
    return values.astype(np.uint8)


def _by_colour(values: np.ndarray, colours: Mapping[Colour, int]) -> np.ndarray:
    """Returns the labels of H×W×3 uint8 colours."""
    red, green, blue = np.moveaxis(values.astype(np.int64), -1, 0)
    encoded = (red << 16) | (green << 8) | blue
    present, positions = np.unique(encoded, return_inverse=True)
    labels = [colours.get(_decode(value), -1) for value in present.tolist()]
    labels = np.array(labels)[positions].reshape(encoded.shape)
    if (labels < 0).any():
        unknown = _unknown(
            encoded, labels >= 0, lambda value: "colour {} {} {}".format(*_decode(value))
        )
        raise ImageError(f"holds {unknown}: no class has it")
    return labels.astype(np.uint8)


def _decode(value: int) -> Colour:
    return value >> 16, value >> 8 & 255, value & 255


def _refuse_transparent(alpha: np.ndarray) -> None:
    if (alpha != _OPAQUE).any():
        raise ImageError(f"has transparent pixels ({_count_and_first(alpha != _OPAQUE)})")


def _unknown(values: np.ndarray, known: np.ndarray, name: Callable[[int], str]) -> str:
    """Lists the unknown values, the most frequent first, with their numbers and places."""
    unknown, counts = np.unique(values[~known], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_NAMED]
    parts = [
        f"{name(value)} ({_count_and_first(values == value)})" for value in unknown[order].tolist()
    ]
    more = len(unknown) - _MAX_NAMED
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _count_and_first(where: np.ndarray) -> str:
    """Returns how many pixels are true, and the place of the first, row by row."""
    y, x = np.unravel_index(int(where.argmax()), where.shape)
    return f"{int(where.sum())} pixels, the first at x={x}, y={y}"
