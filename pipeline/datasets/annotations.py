"""Masks and tags that people or other programs made: one interface to all forms of files."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.datasets.annotation_index import (
    COCO,
    LABEL_STUDIO,
    LABELME,
    AnnotationIndex,
    IndexRow,
    holds_labelme,
    read_index,
)
from pipeline.datasets.instances import draw
from pipeline.datasets.mask_images import Reading, refuse_parts_of_masks
from pipeline.datasets.score_tables import read_table
from pipeline.engine.sample import ByName, Labels, Size, ids_below
from pipeline.errors import ImageError, NoEntry, UserError, shown
from pipeline.files.fingerprints import fingerprint, fingerprint_cached
from pipeline.files.label_images import IGNORE, refuse_brush_masks
from pipeline.files.text import given_path

_MAX_NAMED = 5


@dataclass(frozen=True)
class LabelImage:
    """An image's PNG of labels or colours; can be pickled, as :class:`Drawing` can."""

    path: Path
    reading: Reading

    size, is_exported = None, False

    @cached_property
    def content(self) -> str:
        """The fingerprint of the file; raises an OSError."""
        return fingerprint_cached(self.path)

    @property
    def painted(self) -> str:
        """The fingerprint of the labels, however the file holds them; "" if they are unusable."""
        with suppress(ImageError):
            return fingerprint((labels := self.labels(None)).tobytes(), labels.shape)
        return ""

    def labels(self, size: Size | None) -> np.ndarray:
        """Returns the labels of an image, H×W uint8: 0 background, k+1 class k, 255 ignore.

        Raises an ImageError if they are unusable, or not of ``size``, by default the file's own.
        """
        with naming(self.path):
            labels = self.reading.read_png(self.path)
            refuse_other_size(labels.shape, size or labels.shape)
            return labels

    @cached_property
    def scores(self) -> dict[int, float]:
        """Class index → 1, of each class in the image; raises as :meth:`labels`."""
        counts = np.bincount(self.labels(None).ravel(), minlength=IGNORE + 1)
        return dict.fromkeys(np.flatnonzero(counts[1:IGNORE]).tolist(), 1.0)


@dataclass(frozen=True)
class Drawing:
    """The instances of an image in a JSON file.

    Attributes:
        path: the file.
        row: what the file says of the image.
    """

    path: Path
    reading: Reading
    row: IndexRow

    @property
    def content(self) -> str:
        """The fingerprint of the image's entry, and of nothing else in the file."""
        return self.row.content

    painted = content  # of the shapes, which cost less than their labels

    @property
    def is_exported(self) -> bool:
        """Whether the entry is a computed mask as ``tools/export.py`` wrote it."""
        return self.row.is_exported and not self.row.problem

    @property
    def size(self) -> Size | None:
        """Height and width of the image, if the file says so."""
        return self.row.size and (self.row.size[0], self.row.size[1])

    def labels(self, size: Size | None) -> np.ndarray:
        """Returns the labels of an image; see :meth:`LabelImage.labels`."""
        with naming(self.path):
            if self.row.problem or not (size := size or self.size):
                raise ImageError(self.row.problem or "gives its image no height and width")
            refuse_other_size(self.size or size, size)
            return draw(self.row.instances, self.reading.label_of, size, self.reading.min_score)

    @cached_property
    def scores(self) -> dict[int, float]:
        """Class index → score of its best instance; raises an ImageError."""
        if self.row.problem:
            with naming(self.path, "scores"):
                raise ImageError(self.row.problem)
        named = ((self.reading.label_of(n), score) for n, score in self.row.scores.items())
        best = sorted((score, label - 1) for label, score in named if label)
        return {index: score for score, index in best}


def classes_in(found: LabelImage | Drawing) -> Labels:
    """Returns the classes whose score reaches ``min_score``; raises an ImageError."""
    return tuple(sorted(k for k, score in found.scores.items() if score >= found.reading.min_score))


def refuse_other_size(found: Size, size: Size) -> None:
    """Raises an ImageError unless what was ``found`` for an image is of its ``size``."""
    if tuple(found) != tuple(size):
        given, wanted = (f"{width}×{height}" for height, width in (found, size))
        raise ImageError(f"is of {given} pixels, and the image of {wanted}")


@contextmanager
def naming(path: Path, what: str = "mask") -> Iterator[None]:
    """Names the file in errors; damaged JSON and shapes raise nearly anything."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"its {what} cannot be used: {path} {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(error)}"
        raise ImageError(f"its {what} cannot be used: {path} is damaged ({reason})") from error


@dataclass(frozen=True)
class LabelImages:
    """A folder with a PNG for each image, ``<id>.png``."""

    path: Path
    reading: Reading

    notes: Sequence[str] = ()

    @cached_property
    def entries(self) -> ByName[list[str]]:
        """Id of an image → its names below the folder."""
        found = ByName[list[str]]()
        for name in ids_below(self.path, ".png"):
            found.setdefault(name, []).append(name)
        return found

    def find(self, image_id: str) -> LabelImage:
        """Returns the PNG of an image; raises a NoEntry if there is none, a UserError if two."""
        if image_id not in self.entries:
            raise NoEntry(f"has no mask: {self.path / image_id}.png is missing", self.entries)
        name, *others = self.entries[image_id]
        if others:
            raise UserError(f"{self.path} holds two masks of image {shown(image_id)}: remove one")
        return LabelImage(self.path / f"{name}.png", self.reading)


@dataclass(frozen=True)
class Drawings:
    """A JSON file with the instances of all images, or a folder of labelme's files."""

    path: Path
    reading: Reading
    index: AnnotationIndex
    known: Collection[str] = ()  # ids of images, of which a longer path may end in one
    holds_tags: bool = False  # whether it is read for classes and scores, and not for masks

    @cached_property
    def notes(self) -> list[str]:
        """What the user should know: remarks, and instances whose names are not classes."""
        found = [
            f"{self.path.name} has {count} {what}, the first at {first}"
            for what, (count, first) in self.index.remarks.items()
        ]
        others = {n: c for n, c in self.index.counts.items() if not self.reading.label_of(n)}
        undrawn = [name for name, row in self.index.rows.items() if row.undrawn]
        if undrawn and not self.holds_tags:
            first = f"the first {shown(undrawn[0])} ({self.index.rows[undrawn[0]].undrawn})"
            found.append(f"{self.path.name} has no mask for {len(undrawn)} of its images, {first}")
        if others:
            names = ", ".join(f"{shown(name)} ({others[name]})" for name in [*others][:_MAX_NAMED])
            more = ", …" if len(others) > _MAX_NAMED else ""
            what = "instances" if self.index.form in (COCO, LABEL_STUDIO, LABELME) else "scores"
            counted = f"{sum(others.values())} {what} of names that are not classes"
            found.append(f"{self.path.name} has {counted}: {names}{more}")
        return found

    @cached_property
    def entries(self) -> ByName[list[str]]:
        """Id of an image → its names in the file.

        Label Studio's may begin with folders that are not those of the images: such a name is that
        of the longest id that it ends with.
        """
        found, known = ByName[list[str]](), ByName.fromkeys(self.known)
        for name in self.index.rows:
            parts = name.split("/") if self.index.form == LABEL_STUDIO else [name]
            ends = ("/".join(parts[start:]) for start in range(len(parts)))
            found.setdefault(next((end for end in ends if end in known), name), []).append(name)
        return found

    def find(self, image_id: str) -> Drawing:
        """Returns the instances of an image; raises a NoEntry if the file does not list them."""
        names, path = self.entries.get(image_id), self.path
        if names is None:
            raise NoEntry(f"has no entry in {path}", self.entries)
        row = self.index.rows[names[0]]
        if row.undrawn and not self.holds_tags:
            raise NoEntry(f"has no mask in {path}, which has {row.undrawn}", self.entries)
        if len(names) > 1:
            row = replace(row, problem=f"has several entries of it, such as {shown(names[1])}")
        if self.index.form == LABELME:
            path /= f"{names[0]}.json"
        return Drawing(path, self.reading, row)


Annotations = LabelImages | Drawings
"""The annotations of many images."""


def open_annotations(
    given: str,
    key: str,
    reading: Reading,
    split: str = "",
    several: bool = False,
    holds_tags: bool = False,
    known: Collection[str] = (),
    files: Collection[str] = (),
) -> Annotations:
    """Opens a file or folder of annotations, that of a split where there is one below it.

    Args:
        given: the path, as the configuration has it under ``key``.
        split: the split of the images; "" where the data set has one.
        several: whether the run works on other splits as well.
        holds_tags: whether it is read for classes and scores: it may be a table of these, and no
            folder of label PNGs.
        known: the ids of the split's images.
        files: their names, by which a table of scores may call them.

    Raises:
        UserError: it is missing or damaged, holds parts of masks, or may be of another split.
    """
    path = given_path(given, key).absolute()
    names = [f"{split}/", f"{split}.json", *([f"{split}.csv"] if holds_tags else [])]
    if split and (found := [path / name for name in names if os.path.lexists(path / name)]):
        path = found[0]
    elif several:
        raise UserError(
            f"{key}={shown(given)} holds neither {' nor '.join(names)}: with several splits give a"
            " folder with one for each, since their images may have equal ids"
        )
    if not os.path.lexists(path):
        others = "a list, a table with scores" if holds_tags else "a folder of label PNGs"
        raise UserError(
            f"{key}={shown(given)} does not exist: give {others}, or the JSON of COCO, Label Studio"
            " or labelme"
        )
    if holds_tags and path.suffix.lower() == ".csv":
        ids = ByName.fromkeys({*known}.difference(files))  # a file of that name comes first
        return Drawings(path, reading, read_table(path, key, ids), known, holds_tags)
    if holds_tags or not path.is_dir() or holds_labelme(path):
        return Drawings(path, reading, read_index(path), known, holds_tags)
    refuse_parts_of_masks((name for *_, names in os.walk(path) for name in names), path)
    return LabelImages(path, reading)


def refuse_brush(annotations: Annotations, ids: Iterable[str], key: str) -> None:
    """Refuses label PNGs of images that hold only 0 and 255; ``key`` is the setting."""
    reading = annotations.reading
    if isinstance(annotations, LabelImages) and reading.values is None and not reading.by_colour:
        values = f"{key.partition('.')[0]}.values"
        remedy = f"if so, give {values}=[255]; if not, {values}=[1]"
        masks = (annotations.find(each).path for each in ids if each in annotations.entries)
        refuse_brush_masks(masks, f"{key}={annotations.path}", remedy)
