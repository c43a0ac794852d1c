"""Ground-truth masks, in whatever form a data set has them.

Read, a mask is H×W uint8: 0 background, k+1 class k, 255 ignore. Forms that are not that on disk
are turned into it when they are first needed; the data set's own files are never touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.vocabulary import IGNORE, voc_palette
from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels

_LEAST_COORDINATES = 6
"""Of a polygon: three corners."""


class GroundTruthMask(ABC):
    """The mask of one image; can be sent to other processes."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """Returns the labels, H×W uint8.

        Raises:
            UserError: the file is missing, damaged or has colours instead of labels.
        """

    @abstractmethod
    def file(self) -> Path:
        """Returns a palette or grey PNG with these labels, which is made when it is not there."""


@dataclass(frozen=True)
class MaskFile(GroundTruthMask):
    """A palette or grey PNG that holds labels as we use them.

    Attributes:
        path: the file.
        class_count: n, above which only 255 is a label; none where that is certain.
    """

    path: Path
    class_count: int | None = None

    def read(self) -> np.ndarray:
        """See the base class."""
        return _known_labels(read_mask(self.path), self.class_count, self.path)

    def file(self) -> Path:
        """See the base class."""
        return self.path


@dataclass(frozen=True)
class DerivedMask(GroundTruthMask):
    """A mask that has to be made from something else; kept as a PNG once it was made.

    Attributes:
        kept: where it is kept; the fingerprint of what it was made from is added to the name, so
            that a corrected file or another vocabulary never meets what was kept of this one.
    """

    kept: Path

    @abstractmethod
    def make(self) -> np.ndarray:
        """Returns the labels from the data set's own files."""

    @abstractmethod
    def origin(self) -> Any:
        """Returns what the labels are made from, in a form that JSON can hold."""

    def read(self) -> np.ndarray:
        """See the base class."""
        return read_mask(self.file())

    def file(self) -> Path:
        """See the base class."""
        kept = self.kept.with_stem(f"{self.kept.stem}-{fingerprint(self.origin())}")
        if not kept.is_file():
            write_atomically(kept, encode_png(self.make(), voc_palette(256)))
        return kept


@dataclass(frozen=True)
class RelabelledMask(DerivedMask):
    """A PNG whose values mean something else.

    Attributes:
        path: the file.
        labels: value → label; values that are not in it become 255. Of at most 256 entries.
    """

    path: Path
    labels: tuple[tuple[int, int], ...]

    def make(self) -> np.ndarray:
        """See the base class."""
        return label_table(self.labels)[read_mask(self.path)]

    def read(self) -> np.ndarray:
        """See the base class; a table look-up is as fast as the file that could be kept."""
        return self.make()

    def origin(self) -> Any:
        """See the base class."""
        return [_fingerprint_present(self.path), self.labels]


@dataclass(frozen=True)
class InstanceMask(DerivedMask):
    """The classes of COCO's instances, drawn by pycocotools, the largest first.

    So a cup on a table is a cup. Crowds are drawn before single objects.

    Attributes:
        height: of the image.
        width: of the image.
        instances: (label, crowd, area, polygons or run lengths) of every instance.
    """

    height: int
    width: int
    instances: Sequence[tuple[int, bool, float, Any]]

    def make(self) -> np.ndarray:
        """See the base class."""
        labels = np.zeros((self.height, self.width), np.uint8)
        for label, _, _, shape in sorted(self.instances, key=lambda i: (not i[1], -i[2])):
            try:
                labels[_rasterise(shape, self.height, self.width)] = label
            except Exception as error:  # pycocotools raises nearly anything on what it cannot draw
                raise UserError(
                    f"an instance of image {self.kept.stem} cannot be drawn in {self.width}×"
                    f"{self.height} pixels: download the annotations again"
                ) from error
        return labels

    def origin(self) -> Any:
        """See the base class."""
        return [self.height, self.width, self.instances]


@dataclass(frozen=True)
class MatlabMask(DerivedMask):
    """A mask of the Semantic Boundaries Dataset, ``cls/<id>.mat``: ``GTcls.Segmentation``.

    Attributes:
        path: the file.
        class_count: n, above which only 255 is a label; none where that is certain.
    """

    path: Path
    class_count: int | None = None

    def read(self) -> np.ndarray:
        """See the base class."""
        return _known_labels(super().read(), self.class_count, self.path)

    def make(self) -> np.ndarray:
        """See the base class."""
        from scipy.io import loadmat

        try:
            content = loadmat(self.path, struct_as_record=False, variable_names=["GTcls"])
            return np.asarray(content["GTcls"].item().Segmentation, np.uint8)
        except Exception as error:  # scipy raises nearly anything on damaged files
            raise UserError(f"{self.path} cannot be read as a mask of SBD: replace it") from error

    def origin(self) -> Any:
        """See the base class."""
        return _fingerprint_present(self.path)


@lru_cache
def label_table(labels: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Returns a table of 256 uint8 that turns a stored value into a label."""
    table = np.full(256, IGNORE, np.uint8)
    for value, label in labels:
        table[value] = label
    return table


def read_mask(path: Path) -> np.ndarray:
    """Reads the values of a palette or grey PNG: H×W uint8.

    Raises:
        UserError: the file is missing, damaged or has colours instead of labels.
    """
    try:
        return read_labels(path)
    except FileNotFoundError as error:
        raise _missing(path) from error


def _known_labels(labels: np.ndarray, class_count: int | None, path: Path) -> np.ndarray:
    """Returns labels, H×W uint8, that are known to be 0 to ``class_count`` or 255.

    Raises:
        UserError: one of them is none of these.
    """
    if class_count is not None:
        highest = labels.max(initial=0, where=labels != IGNORE)
        if highest > class_count:
            raise UserError(
                f"{path} holds label {highest}, but dataset.classes {class_count}"
                " names: give the names of all classes in the masks"
            )
    return labels


def _missing(path: Path) -> UserError:
    return UserError(f"{path} is missing: every image of the split needs its mask")


def _fingerprint_present(path: Path) -> str:
    try:
        return fingerprint_file(path)
    except OSError as error:
        raise _missing(path) from error


def _rasterise(shape: Sequence | Mapping, height: int, width: int) -> np.ndarray:
    """Returns an instance's pixels, height×width bool, from polygons or COCO's run lengths."""
    from pycocotools import mask as coco_mask

    if isinstance(shape, Mapping):
        packed = isinstance(shape["counts"], str)
        runs = shape if packed else coco_mask.frPyObjects(dict(shape), height, width)
    else:
        # What has fewer than three corners covers nothing, and pycocotools takes it for a box.
        polygons = [polygon for polygon in shape if len(polygon) >= _LEAST_COORDINATES]
        if not polygons:
            return np.zeros((height, width), bool)
        runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(runs).astype(bool)
