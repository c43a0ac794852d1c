"""Label images: PNGs of H×W labels, 0 background, k+1 class k, 255 ignore.

:func:`pipeline.files.images.encode_png` writes them, with a palette.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import ImageError, UserError
from pipeline.files.images import open_image

IGNORE = 255
"""The ignore index: pixels of a mask with this label are not counted."""

BACKGROUND = "background"
"""The name of label 0, which no class may have."""

PALETTE, GREY = "P", "L"
"""Pillow's modes of PNGs with at most 8 bits a pixel."""

_HEADER = 26  # bytes: signature, length, name, width, height, bit depth, colour type
_GREY_COLOUR_TYPE = 0


class Png(NamedTuple):
    """A decoded PNG.

    Attributes:
        mode: Pillow's name for the kind of its pixels.
        values: H×W, or H×W×channels, as stored: Pillow stretches grey values of 2 and 4 bits.
        palette: 256×3 uint8, RGB, zero beyond the file's own; only of mode ``PALETTE``.
    """

    mode: str
    values: np.ndarray
    palette: np.ndarray | None


def decode_png(path: Path, modes: Collection[str], max_pixels: int | None = None) -> Png:
    """Decodes a PNG of one of Pillow's ``modes`` without converting it.

    Above ``max_pixels``, width × height, it is refused before it is decoded. Raises a
    FileNotFoundError if it is missing, and an ImageError if it is damaged, or no such PNG.
    """
    with open_image(path, ["PNG"], max_pixels) as image:
        mode, palette = image.mode, None
        if mode not in modes:
            raise ImageError(
                f"is a PNG of mode {mode}: convert it to a palette or grey PNG of 8 bits"
            )
        values = np.asarray(image)
        if mode == PALETTE:
            colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(colours)] = colours
        with path.open("rb") as file:
            depth, colour_type = file.read(_HEADER)[-2:]
    if colour_type == _GREY_COLOUR_TYPE and depth in (2, 4):
        values = values // (255 // (2**depth - 1))
    return Png(mode, values, palette)


def read_labels(path: Path, max_pixels: int | None = None) -> np.ndarray:
    """Reads the values of a palette or grey PNG, H×W uint8; an ImageError becomes a UserError."""
    try:
        return decode_png(path, (PALETTE, GREY), max_pixels).values
    except ImageError as error:
        raise UserError(f"{path} {error}") from error


def refuse_brush_masks(masks: Iterable[Path], name: str, remedy: str) -> None:
    """Refuses masks of which all together hold 0 and 255 alone, as brush tools write an object.

    They would be read as "nothing but ignored pixels". Files are read up to the first other value;
    those that cannot be read are reported where they are used. ``name`` is the setting that names
    the masks, and ``remedy`` says how to state what 255 is.
    """
    found: set[int] = set()
    for path in masks:
        with suppress(UserError, OSError):
            found.update(np.unique(read_labels(path)).tolist())
        if found - {0, IGNORE}:
            break
    if IGNORE in found and found <= {0, IGNORE}:
        raise UserError(f"{name} holds only 0 and {IGNORE}: is {IGNORE} the object? {remedy}")
