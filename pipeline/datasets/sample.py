"""What every data set offers: splits of samples, with whatever ground truth there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.images import limit_longest_side, load_image
from pipeline.vocabulary import IGNORE, Vocabulary


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        id: the image's path relative to the image root, without its ending.
        image: the image file.
        mask: the ground-truth mask, a palette or grey PNG; none where there is none.
        labels: class indices from 0, sorted; none where only the mask, or nothing, tells.
    """

    id: str
    image: Path
    mask: Path | None = None
    labels: tuple[int, ...] | None = None

    @property
    def has_ground_truth(self) -> bool:
        """Whether the image's classes are known."""
        return self.labels is not None or self.mask is not None

    @cached_property
    def ground_truth_labels(self) -> tuple[int, ...]:
        """The classes in the image: as listed, otherwise those in the mask.

        Raises:
            UserError: the image has no ground truth, or a damaged mask.
        """
        if self.labels is not None:
            return self.labels
        if self.mask is None:
            raise UserError(f"image {self.id} has no ground truth: use tags=tagclip")
        values = np.unique(read_mask(self.mask))
        return tuple(int(v) - 1 for v in values if v not in (0, IGNORE))


@dataclass(frozen=True)
class Dataset:
    """A vocabulary and the samples of every split.

    Attributes:
        splits: split name → samples, in a fixed order.
        rejected: split name → (image id, reason) of the files that cannot be samples.
        train_split: the split that the segmenter is trained on.
    """

    vocabulary: Vocabulary
    splits: dict[str, list[Sample]]
    train_split: str
    rejected: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageReader:
    """How a run reads its images; can be sent to other processes.

    Attributes:
        apply_exif: see :func:`pipeline.images.load_image`.
        max_pixels: see :func:`pipeline.images.load_image`.
        longest_side: larger images are shrunk to this.
    """

    apply_exif: bool = False
    max_pixels: int | None = None
    longest_side: int | None = None

    def __call__(self, sample: Sample) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns the image, h×w×3 uint8, perhaps shrunk, and its full height and width.

        Raises:
            ImageError: the file is not an image, is damaged, or is too large.
        """
        image = load_image(sample.image, apply_exif=self.apply_exif, max_pixels=self.max_pixels)
        return limit_longest_side(image, self.longest_side), image.shape[:2]


def read_mask(path: Path) -> np.ndarray:
    """Reads the labels of a palette or grey PNG: H×W uint8.

    Raises:
        UserError: the file is missing, damaged or has colours instead of labels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("P", "L"):
                raise UserError(
                    f"{path} is a {image.mode} image: a mask has to be a palette or grey PNG whose"
                    " values are class indices"
                )
            return np.asarray(image)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: every image of the split needs its mask") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise UserError(f"{path} cannot be decoded: replace it") from error


def choose_splits(wanted: str | Sequence[str] | None, offered: Sequence[str]) -> list[str]:
    """Returns the splits that a run works on.

    Raises:
        UserError: a split that the data set does not have.
    """
    chosen = [wanted] if isinstance(wanted, str) else list(wanted or offered)
    for split in chosen:
        if split not in offered:
            raise UserError(f"there is no split {split}: choose from {', '.join(offered)}")
    return chosen
