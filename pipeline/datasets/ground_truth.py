"""Ground-truth masks in the formats of the data sets.

A mask is read as H×W uint8: 0 background, k+1 class k, 255 ignore. The files are never changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.annotations import Drawing, LabelImage, classes_in
from pipeline.datasets.rasterise import rasterise
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Dataset, GroundTruthMask, Labels, Sample, Splits
from pipeline.errors import ImageError, UserError
from pipeline.files.label_images import IGNORE, read_labels


@dataclass(frozen=True)
class MaskFile(GroundTruthMask):
    """A palette or grey PNG of labels; those above ``num_classes`` are refused, except 255."""

    path: Path
    num_classes: int | None = None

    def read(self) -> np.ndarray:
        """Implements the base class."""
        try:
            labels = read_labels(self.path)
        except FileNotFoundError as error:
            raise _missing(self.path) from error
        return _known_labels(labels, self.num_classes, self.path)


@dataclass(frozen=True)
class InstanceMask(GroundTruthMask):
    """The classes of instances, each over those before it; pycocotools draws the polygons.

    Attributes:
        image_id: names the image in errors.
        instances: (label, polygons or run lengths) of every instance.
        max_pixels: larger images are refused before they are drawn.
    """

    image_id: str
    height: int
    width: int
    instances: Sequence[tuple[int, Any]]
    max_pixels: int | None = None
    file: Path | None = None

    def read(self) -> np.ndarray:
        """Implements the base class."""
        if self.max_pixels is not None and self.height * self.width > self.max_pixels:
            raise UserError(
                f"the annotations give image {self.image_id} {self.width}×{self.height} pixels,"
                f" more than dataset.max_pixels={self.max_pixels}: correct them, or raise the limit"
            )
        labels = np.zeros((self.height, self.width), np.uint8, order="F")  # as pycocotools has it
        for label, shape in self.instances:
            try:
                labels[rasterise(shape, self.height, self.width)] = label
            except Exception as error:  # damaged shapes raise nearly anything
                raise UserError(
                    f"an instance of image {self.image_id} cannot be drawn in {self.width}×"
                    f"{self.height} pixels: download the annotations again"
                ) from error
        return labels


@dataclass(frozen=True)
class AnnotatedMask(GroundTruthMask):
    """An annotation as the ground truth of an image, whose id errors name.

    Images of more than ``max_pixels`` are refused before they are drawn.
    """

    image_id: str
    annotation: LabelImage | Drawing
    max_pixels: int | None = None

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        found = self.annotation
        is_file = isinstance(found, LabelImage)
        return [found.path if is_file else found.content, found.reading.key_facts]

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
            raise UserError(f"image {self.image_id}: {error}") from error

    def classes(self) -> Labels:
        """Returns the classes whose score reaches ``min_score``; raises as :meth:`read`."""
        try:
            return classes_in(self.annotation)
        except ImageError as error:
            raise UserError(f"image {self.image_id}: {error}") from error


@dataclass(frozen=True)
class MatlabMask(GroundTruthMask):
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
class WithoutBackground(GroundTruthMask):
    """Another mask, ``complete``, whose background is ignored."""

    complete: GroundTruthMask

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        return [IGNORE, *self.complete.origin]

    @property
    def file(self) -> Path | None:  # type: ignore[override]
        """Implements the base class."""
        return self.complete.file

    def read(self) -> np.ndarray:
        """Implements the base class."""
        labels = self.complete.read()
        return np.where(labels == 0, np.uint8(IGNORE), labels)


def ignore_background(dataset: Dataset[Vocabulary]) -> Dataset[Vocabulary]:
    """Returns a data set in whose masks the background is ignored."""

    def read(split: str) -> list[Sample]:
        samples = dataset.splits[split]
        return [replace(s, mask=s.mask and WithoutBackground(s.mask)) for s in samples]

    return replace(dataset, splits=Splits({s: partial(read, s) for s in dataset.splits}))


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
