"""Images with their pseudo masks, and checks of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pipeline.errors import UserError
from pipeline.files.label_images import GREY, IGNORE, PALETTE, read_labels

_ROTATED_BY_90 = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class TrainingPair:
    """An image with the mask that it is trained on.

    Attributes:
        id: unique name of the image.
        image: any file that ``pipeline.files.images.load_image`` reads.
        mask: indexed or grey PNG of the image's size; 0 background, k+1 class k, 255 ignore.
        probability: 8-bit grey PNG of the image's size: 255 times the weight in [0, 1] of each
            pixel. None gives all pixels the same weight.
    """

    id: str
    image: Path
    mask: Path
    probability: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The files of the pair."""
        return [f for f in (self.image, self.mask, self.probability) if f is not None]


def check_pairs(
    pairs: Sequence[TrainingPair], num_classes: int, *, apply_exif: bool = False
) -> list[str]:
    """Finds everything that would end or spoil a training; decodes masks but not images.

    Args:
        pairs: the pairs to check.
        num_classes: n classes without the background; labels 0 to n and 255 are allowed.
        apply_exif: whether images will be rotated by their EXIF orientation.

    Returns:
        One sentence for each problem, beginning with the id.
    """
    return [
        f"{pair.id}: {problem}"
        for pair in pairs
        for problem in _problems(pair, num_classes, apply_exif)
    ]


def _problems(pair: TrainingPair, num_classes: int, apply_exif: bool) -> Iterator[str]:
    size = None
    if not pair.image.is_file():
        yield f"image {pair.image} is missing"
    else:
        try:
            size = _oriented_size(pair.image, apply_exif)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            yield f"image {pair.image} cannot be read ({type(error).__name__})"

    labels = _read_bytes("mask", pair.mask, (PALETTE, GREY))
    if isinstance(labels, str):
        yield labels
    else:
        yield from _wrong_size("mask", labels, size)
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        wrong = [int(label) for label in present if num_classes < label != IGNORE]
        if wrong:
            yield f"mask has labels {wrong} outside 0 to {num_classes} and 255"

    if pair.probability is not None:
        weights = _read_bytes("probability", pair.probability, (GREY,))
        if isinstance(weights, str):
            yield weights
        else:
            yield from _wrong_size("probability", weights, size)


def _read_bytes(kind: str, path: Path, modes: tuple[str, ...]) -> np.ndarray | str:
    """Returns the pixels, H×W uint8, of a PNG of one of Pillow's modes, or what is wrong."""
    try:
        return read_labels(path, modes)
    except FileNotFoundError:
        return f"{kind} {path} is missing"
    except UserError as error:
        return f"{kind} {error}"


def _wrong_size(kind: str, pixels: np.ndarray, size: tuple[int, int] | None) -> Iterator[str]:
    if size is not None and pixels.shape != size[::-1]:
        height, width = pixels.shape
        yield f"{kind} is {width}×{height}, its image {size[0]}×{size[1]} pixels"


def _oriented_size(path: Path, apply_exif: bool) -> tuple[int, int]:
    """Returns (width, height), from the header of the file."""
    with Image.open(path) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    rotated = apply_exif and orientation in _ROTATED_BY_90
    return (height, width) if rotated else (width, height)
