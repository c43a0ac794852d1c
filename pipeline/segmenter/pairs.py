"""Images and their pseudo masks, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pipeline.vocabulary import IGNORE

_INDEXED_OR_GREY = frozenset({"P", "L"})
_TURNED_BY_90 = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class TrainingPair:
    """An image and the mask to learn from.

    Attributes:
        id: unique name of the image.
        image: any file that ``pipeline.images.load_image`` reads.
        mask: indexed or grey PNG in the image's size; 0 background, k+1 class k, 255 ignore.
    """

    id: str
    image: Path
    mask: Path


def check_pairs(
    pairs: Sequence[TrainingPair], class_count: int, *, apply_exif: bool = False
) -> list[str]:
    """Finds everything that would spoil a training; decodes the masks, not the images.

    Args:
        pairs: what to check.
        class_count: n classes without the background: labels 0 to n and 255 are allowed.
        apply_exif: whether images will be turned as their EXIF orientation says.

    Returns:
        One sentence per problem, beginning with the id; empty when all is well.
    """
    return [
        f"{pair.id}: {problem}"
        for pair in pairs
        for problem in _problems(pair, class_count, apply_exif)
    ]


def _problems(pair: TrainingPair, class_count: int, apply_exif: bool) -> list[str]:
    missing = [
        f"{kind} {path} is missing"
        for kind, path in (("image", pair.image), ("mask", pair.mask))
        if not path.is_file()
    ]
    if missing:
        return missing
    try:
        size = _oriented_size(pair.image, apply_exif)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        return [f"image {pair.image} cannot be read ({type(error).__name__})"]
    try:
        with Image.open(pair.mask) as mask:
            if mask.format != "PNG" or mask.mode not in _INDEXED_OR_GREY:
                return [f"mask {pair.mask} is {mask.format} {mask.mode}, not an indexed PNG"]
            labels = np.asarray(mask)
    except Exception as error:
        return [f"mask {pair.mask} cannot be read ({type(error).__name__})"]

    problems = []
    if labels.shape != size[::-1]:
        problems.append(
            f"mask is {labels.shape[1]}×{labels.shape[0]}, its image {size[0]}×{size[1]} pixels"
        )
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    wrong = [int(label) for label in present if class_count < label != IGNORE]
    if wrong:
        problems.append(f"mask has labels {wrong} outside 0 to {class_count} and 255")
    return problems


def _oriented_size(path: Path, apply_exif: bool) -> tuple[int, int]:
    """Returns (width, height) from the file's header."""
    with Image.open(path) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    turned = apply_exif and orientation in _TURNED_BY_90
    return (height, width) if turned else (width, height)
