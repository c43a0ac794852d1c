"""Masks of others as masks of ours: palette, indexed, grey and coloured PNGs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.vocabulary import IGNORE
from pipeline.errors import ImageError
from pipeline.exchange.colour_tables import Colour, describe_colour, encode_colours
from pipeline.files.images import refuse_special_file

_MOST_NAMED = 3
_OPAQUE = 255
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_DEPTH_AT = 24  # of a PNG's bytes, after signature, length, name, width and height
_GREY = 0  # PNG's colour type


def read_foreign_mask(
    path: Path,
    class_count: int,
    colours: Mapping[Colour, int],
    palette_by_colour: bool = False,
) -> np.ndarray:
    """Reads the labels of a mask in whatever form of PNG it comes.

    Args:
        path: palette and grey PNGs hold labels, of 1 to 16 bits, whatever colours a palette gives
            them; of others the colours stand for labels.
        class_count: n; labels are 0 to n, and 255.
        colours: colour → label.
        palette_by_colour: whether a palette's colours count, and not its indices.

    Returns:
        H×W uint8; 0 background, k+1 class k, 255 ignore.

    Raises:
        ImageError: the file is no PNG, is damaged, has transparent pixels, or has colours or labels
            that are not known: says which, how many pixels, and where the first is.
    """
    try:
        refuse_special_file(path)
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            mode = image.mode
            values = np.asarray(image)
            palette = np.asarray((image.getpalette("RGB") if mode == "P" else None) or [], np.uint8)
        with path.open("rb") as file:
            depth, kind = file.read(_DEPTH_AT + 2)[_DEPTH_AT:]
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"cannot be decoded as PNG ({type(error).__name__})") from error
    if mode == "P" and palette_by_colour:
        table = np.zeros((256, 3), np.uint8)
        table[: len(palette) // 3] = palette.reshape(-1, 3)
        return _by_colour(table[values], colours)
    if mode in ("P", "L", "1", *_SIXTEEN_BIT):
        if kind == _GREY and depth in (2, 4):  # which Pillow stretches to 8 bits
            values = values // (255 // (2**depth - 1))
        return _by_label(values.astype(np.int64), class_count)
    if mode in ("LA", "RGBA"):
        _refuse_transparent(values[..., -1])
        values = values[..., :-1]
        if mode == "LA":
            return _by_label(values[..., 0].astype(np.int64), class_count)
    elif mode != "RGB":
        raise ImageError(f"is a PNG of a kind that holds no mask ({mode})")
    return _by_colour(values, colours)


def _by_label(values: np.ndarray, class_count: int) -> np.ndarray:
    known = (values <= class_count) | (values == IGNORE)
    if not known.all():
        unknown = _unknown(values, known, lambda value: f"label {value}")
        raise ImageError(f"holds {unknown}, where labels are 0 to {class_count} and {IGNORE}")
    return values.astype(np.uint8)


def _by_colour(values: np.ndarray, colours: Mapping[Colour, int]) -> np.ndarray:
    """Returns the labels of H×W×3 uint8 colours."""
    red, green, blue = np.moveaxis(values.astype(np.int64), -1, 0)
    encoded = (red << 16) | (green << 8) | blue
    found, places = np.unique(encoded, return_inverse=True)
    table = encode_colours(colours)
    known = np.array([value in table for value in found.tolist()], bool)[places]
    known = known.reshape(encoded.shape)
    if not known.all():

        def name(value: int) -> str:
            return f"colour {describe_colour((value >> 16, value >> 8 & 255, value & 255))}"

        raise ImageError(f"holds {_unknown(encoded, known, name)}: no class has it")
    labels = np.array([table[value] for value in found.tolist()], np.uint8)
    return labels[places].reshape(encoded.shape)


def _refuse_transparent(alpha: np.ndarray) -> None:
    if (alpha != _OPAQUE).any():
        count, x, y = _count_and_first(alpha != _OPAQUE)
        raise ImageError(f"has transparent pixels ({count} pixels, the first at x={x}, y={y})")


def _unknown(values: np.ndarray, known: np.ndarray, name: Callable[[int], str]) -> str:
    """Says which values are not known, the most frequent ones with their numbers and places."""
    found, counts = np.unique(values[~known], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = []
    for value in found[order][:_MOST_NAMED].tolist():
        count, x, y = _count_and_first(values == value)
        parts.append(f"{name(value)} ({count} pixels, the first at x={x}, y={y})")
    more = len(found) - _MOST_NAMED
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _count_and_first(where: np.ndarray) -> tuple[int, int, int]:
    """Returns how many pixels are true, and column and row of the first, row by row."""
    y, x = np.unravel_index(int(where.argmax()), where.shape)
    return int(where.sum()), int(x), int(y)
