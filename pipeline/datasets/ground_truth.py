"""Ground-truth masks in the formats of the data sets.

A mask is read as H×W uint8: 0 background, k+1 class k, 255 ignore. The data set's own files are
never changed.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.annotations import Drawing, LabelImage
from pipeline.datasets.rasterise import rasterise
from pipeline.datasets.vocabulary import Vocabulary, voc_palette
from pipeline.engine.sample import Dataset, GroundTruthMask, Sample, Splits
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.images import encode_png, open_image
from pipeline.files.label_images import GREY, IGNORE, PALETTE, read_labels


@dataclass(frozen=True)
class MaskFile(GroundTruthMask):
    """A palette or grey PNG of labels; those above ``num_classes`` are refused, except 255."""

    path: Path
    num_classes: int | None = None

    def read(self) -> np.ndarray:
        """Implements the base class."""
        return _known_labels(read_mask(self.path), self.num_classes, self.path)

    def file(self) -> Path:
        """Implements the base class."""
        return self.path


@dataclass(frozen=True)
class DerivedMask(GroundTruthMask):
    """A mask that is made from other data; ``kept`` is a PNG of it where a file is needed.

    The fingerprint of the other attributes, and of the files that they name, is added to its name,
    so that a corrected file or another vocabulary gets a file of its own.
    """

    kept: Path

    def file(self) -> Path:
        """Implements the base class."""
        try:
            origin = [fingerprint_file(v) if isinstance(v, Path) else v for v in self.origin]
        except OSError as error:
            raise _missing(error.filename) from error
        kept = self.kept.with_stem(f"{self.kept.stem}-{fingerprint(origin)}")
        if not kept.is_file():
            write_atomically(kept, encode_png(self.read(), voc_palette(256)))
        return kept


@dataclass(frozen=True)
class InstanceMask(DerivedMask):
    """The classes of COCO's instances, the largest first; pycocotools draws the polygons.

    Smaller objects therefore cover larger ones, as a cup on a table. Crowds are drawn before single
    objects.

    Attributes:
        instances: (label, crowd, area in pixels, polygons or run lengths) of every instance.
        max_pixels: larger images are refused before they are drawn.
    """

    height: int
    width: int
    instances: Sequence[tuple[int, bool, float, Any]]
    max_pixels: int | None = None

    def read(self) -> np.ndarray:
        """Implements the base class."""
        if self.max_pixels is not None and self.height * self.width > self.max_pixels:
            raise UserError(
                f"the annotations give image {self.kept.stem} {self.width}×{self.height} pixels,"
                f" more than dataset.max_pixels={self.max_pixels}: correct them, or raise the limit"
            )
        labels = np.zeros((self.height, self.width), np.uint8, order="F")  # as pycocotools has it
        for label, _, _, shape in sorted(self.instances, key=lambda i: (not i[1], -i[2])):
            try:
                labels[rasterise(shape, self.height, self.width)] = label
            except Exception as error:  # damaged shapes raise nearly anything
                raise UserError(
                    f"an instance of image {self.kept.stem} cannot be drawn in {self.width}×"
                    f"{self.height} pixels: download the annotations again"
                ) from error
        return labels


@dataclass(frozen=True)
class AnnotatedMask(DerivedMask):
    """An annotation as the ground truth of an image, or as a mask to train on.

    Images of more than ``max_pixels`` are refused before they are drawn.
    """

    annotation: LabelImage | Drawing
    max_pixels: int | None = None

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        found = self.annotation
        is_file = isinstance(found, LabelImage)
        return [found.path if is_file else found.content, found.reading.facts]

    def read(self) -> np.ndarray:
        """Implements the base class."""
        height, width = self.annotation.size or (0, 0)
        try:
            if self.max_pixels is not None and height * width > self.max_pixels:
                raise ImageError(
                    f"its mask has more than dataset.max_pixels={self.max_pixels} pixels"
                )
            return self.annotation.labels(None)
        except ImageError as error:
            raise UserError(f"image {self.kept.stem}: {error}") from error

    def file(self) -> Path:
        """Implements the base class; a PNG of labels is such a file, even if it is damaged."""
        found, mode = self.annotation, PALETTE
        if not isinstance(found, LabelImage) or not found.reading.takes_labels:
            return super().file()
        with suppress(Exception), open_image(found.path, ["PNG"]) as image:
            mode = image.mode
        return found.path if mode in (PALETTE, GREY) else super().file()


@dataclass(frozen=True)
class MatlabMask(DerivedMask):
    """``cls/<id>.mat`` of the Semantic Boundaries Dataset; labels as in :class:`MaskFile`."""

    path: Path
    num_classes: int | None = None

    def read(self) -> np.ndarray:
        """Implements the base class."""
        from scipy.io import loadmat

        try:
            content = loadmat(self.path, struct_as_record=False, variable_names=["GTcls"])
            labels = np.asarray(content["GTcls"].item().Segmentation, np.uint8)
        except FileNotFoundError as error:
            raise _missing(self.path) from error
        except Exception as error:  # scipy raises many types on damaged files
            raise UserError(f"{self.path} cannot be read as a mask of SBD: replace it") from error
        return _known_labels(labels, self.num_classes, self.path)


@dataclass(frozen=True)
class WithoutBackground(DerivedMask):
    """Another mask, ``complete``, whose background is ignored."""

    complete: GroundTruthMask

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        return [IGNORE, *self.complete.origin]

    def read(self) -> np.ndarray:
        """Implements the base class."""
        labels = self.complete.read()
        return np.where(labels == 0, np.uint8(IGNORE), labels)


def ignore_background(dataset: Dataset[Vocabulary], cache: str) -> Dataset[Vocabulary]:
    """Returns a data set in whose masks the background is ignored; ``cache`` keeps such masks."""
    folder = Path(cache) / "without_background"

    def read(split: str) -> list[Sample]:
        samples = dataset.splits[split]
        masks = [s.mask and WithoutBackground(folder / f"{s.id}.png", s.mask) for s in samples]
        return [replace(sample, mask=mask) for sample, mask in zip(samples, masks)]

    return replace(dataset, splits=Splits({s: partial(read, s) for s in dataset.splits}))


def read_mask(path: Path) -> np.ndarray:
    """Reads a palette or grey PNG, H×W uint8; raises a UserError if it is missing or damaged."""
    try:
        return read_labels(path)
    except FileNotFoundError as error:
        raise _missing(path) from error


def _known_labels(labels: np.ndarray, num_classes: int | None, path: Path) -> np.ndarray:
    """Returns labels, H×W uint8, after checking that they are 0 to ``num_classes`` or 255."""
    highest = labels.max(initial=0, where=labels != IGNORE)
    if num_classes is not None and highest > num_classes:
        raise UserError(
            f"{path} holds label {highest}, but dataset.classes {num_classes} names: give the names"
            " of all classes in the masks"
        )
    return labels


def _missing(path: Path | str) -> UserError:
    return UserError(f"{path} is missing: every image of the split needs its mask")
