"""What every data set offers: splits of samples, with whatever ground truth there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.datasets.ground_truth import GroundTruthMask
from pipeline.datasets.vocabulary import IGNORE, Vocabulary
from pipeline.errors import UserError
from pipeline.files.images import limit_longest_side, load_image

Labels = tuple[int, ...]
"""Class indices from 0, sorted."""


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        id: the image's path relative to the image root, without its ending.
        image: the image file.
        mask: the ground-truth mask; none where there is none.
        labels: class indices from 0, sorted, or what reads them; none where only the mask, or
            nothing, tells.
    """

    id: str
    image: Path
    mask: GroundTruthMask | None = None
    labels: Labels | Callable[[], Labels] | None = None

    @property
    def has_ground_truth(self) -> bool:
        """Whether the image's classes are known."""
        return self.labels is not None or self.mask is not None

    @cached_property
    def ground_truth_labels(self) -> Labels:
        """The classes in the image: as listed, otherwise those in the mask.

        Raises:
            UserError: the image has no ground truth, or a damaged one.
        """
        if self.labels is not None:
            return self.labels() if callable(self.labels) else self.labels
        if self.mask is None:
            raise UserError(f"image {self.id} has no ground truth: use tags=tagclip")
        values = np.unique(self.mask.read())
        return tuple(int(v) - 1 for v in values if v not in (0, IGNORE))


class Splits(Mapping[str, list[Sample]]):
    """Split name → samples in a fixed order; a split is read from disk when it is first asked for.

    Annotation files hold hundreds of megabytes, and most runs need one of them.
    """

    def __init__(self, readers: Mapping[str, list[Sample] | Callable[[], list[Sample]]]):
        self._readers = dict(readers)

    def __getitem__(self, split: str) -> list[Sample]:
        samples = self._readers[split]
        if callable(samples):
            samples = self._readers[split] = samples()
        return samples

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(frozen=True)
class Dataset:
    """A vocabulary and the samples of every split.

    Attributes:
        splits: split name → samples, in a fixed order.
        rejected: split name → (image id, reason) of the files that cannot be samples.
        train_split: the split that the segmenter is trained on.
    """

    vocabulary: Vocabulary
    splits: Mapping[str, list[Sample]]
    train_split: str
    rejected: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageReader:
    """How a run reads its images; can be sent to other processes.

    Attributes:
        apply_exif: see :func:`pipeline.files.images.load_image`.
        max_pixels: see :func:`pipeline.files.images.load_image`.
        longest_side: larger images are shrunk to this.
    """

    apply_exif: bool = False
    max_pixels: int | None = None
    longest_side: int | None = None

    @property
    def facts(self) -> dict[str, int | bool | None]:
        """What changes the pixels of an image, for a cache key."""
        return {"longest_side": self.longest_side, "exif": not self.apply_exif}

    def __call__(self, sample: Sample) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns the image, h×w×3 uint8, perhaps shrunk, and its full height and width.

        Raises:
            ImageError: the file is not an image, is damaged, or is too large.
        """
        image = load_image(sample.image, apply_exif=self.apply_exif, max_pixels=self.max_pixels)
        return limit_longest_side(image, self.longest_side), image.shape[:2]


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
