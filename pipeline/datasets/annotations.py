"""Masks and tags that people or other programs made: one interface to all forms of files."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets.annotation_index import (
    LABEL_STUDIO,
    AnnotationIndex,
    Row,
    holds_labelme,
    read_index,
)
from pipeline.datasets.ground_truth import DerivedMask, MaskFile
from pipeline.datasets.instances import Instance, draw
from pipeline.datasets.mask_images import Colour, read_colours, read_foreign_mask, value_table
from pipeline.datasets.settings import AnnotationSettings, LabelMapSettings
from pipeline.datasets.vocabulary import same_name, voc_palette
from pipeline.engine.sample import GroundTruthMask, Size, ids_below
from pipeline.errors import ImageError, NoEntry, UserError, check_choice, shown
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.json_stream import read_element
from pipeline.files.label_images import GREY, IGNORE, PALETTE
from pipeline.files.text import given_path

_MAX_NAMED = 5


@dataclass(frozen=True)
class Reading:
    """How annotations become labels.

    Attributes:
        labels: name of a class, as :func:`~pipeline.datasets.vocabulary.same_name` has it → label.
        num_classes: n.
        colours: colour → label, in coloured PNGs.
        values: pixel value → label, in palette and grey PNGs; none for labels themselves.
        by_colour: whether the colours of palette PNGs count.
        min_score: see :func:`pipeline.datasets.instances.draw`.
    """

    labels: Mapping[str, int]
    num_classes: int
    colours: Mapping[Colour, int]
    values: Mapping[int, int] | None
    by_colour: bool
    min_score: float

    @classmethod
    def of(cls, settings: AnnotationSettings, group: str, classes: Sequence[str]) -> "Reading":
        """Reads the settings of a group of the configuration.

        Raises:
            UserError: a table of colours is missing or damaged, or a name is joined to two classes.
        """
        labels = {same_name(name): k + 1 for k, name in enumerate(classes)}
        for name, names in settings.join.items():
            check_choice(f"{group}.join: {shown(name)} is not a class", same_name(name), labels)
            label = labels[same_name(name)]
            for other in [names] if isinstance(names, str) else names:
                if labels.setdefault(same_name(str(other)), label) != label:
                    raise UserError(
                        f"{group}.join counts {shown(other)} as two classes: keep one of them"
                    )
        palette, values = voc_palette(256), None
        colours = {palette[label]: label for label in (*range(len(classes) + 1), IGNORE)}
        if settings.colours is not None:
            key = f"{group}.colours"
            colours = read_colours(given_path(settings.colours, key), classes, key)
        if settings.values is not None:
            values = dict(value_table(settings.values, classes, group))
            if not isinstance(settings, LabelMapSettings):  # these have no background
                values = {0: 0} | values
        by_colour = settings.palette == "colour"
        return cls(labels, len(classes), colours, values, by_colour, settings.min_score)

    def label_of(self, name: object) -> int | None:
        """Returns the label of a name, if it is that of a class."""
        return self.labels.get(same_name(str(name)))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What labels depend on beside the files, for a cache key."""
        listed = (sorted(map(str, table.items())) for table in (self.colours, self.values or {}))
        tables = fingerprint(*listed, self.by_colour)
        return {"labels": dict(self.labels), "tables": tables, "min_score": self.min_score}


@dataclass(frozen=True)
class LabelImage:
    """An image's PNG of labels or colours; can be pickled, as :class:`Drawing` can."""

    path: Path
    reading: Reading

    size = None

    @cached_property
    def content(self) -> str:
        """The fingerprint of the file; raises an OSError."""
        return fingerprint_file(self.path)

    def labels(self, size: Size | None) -> np.ndarray:
        """Returns the labels of an image, H×W uint8: 0 background, k+1 class k, 255 ignore.

        Raises:
            ImageError: they cannot be used, or are not of the image's ``size``; without one, that
                of the file counts.
        """
        with _damage(self.path):
            labels = read_foreign_mask(
                self.path,
                self.reading.num_classes,
                self.reading.colours,
                self.reading.by_colour,
                self.reading.values,
                other=IGNORE,
            )
            _refuse_other_size(labels.shape, size or labels.shape)
            return labels

    @cached_property
    def scores(self) -> dict[int, float]:
        """Class index → 1, of each class in the image; raises as :meth:`labels`."""
        present = np.unique(self.labels(None)).tolist()
        return {label - 1: 1.0 for label in present if label not in (0, IGNORE)}


@dataclass(frozen=True)
class Drawing:
    """The instances of an image in a JSON file.

    Attributes:
        path: the file.
        row: what its index says of the image.
        instances_of: returns the instances of an element of the file.
    """

    path: Path
    reading: Reading
    row: Row
    instances_of: Callable[[Any], Iterable[Instance]]

    @property
    def content(self) -> str:
        """The fingerprint of the image's entry, and of nothing else in the file."""
        return self.row.content

    @property
    def size(self) -> Size | None:
        """Height and width of the image, if the file says so."""
        return self.row.size and (self.row.size[0], self.row.size[1])

    def labels(self, size: Size | None) -> np.ndarray:
        """Returns the labels of an image; see :meth:`LabelImage.labels`."""
        with _damage(self.path):
            if self.row.problem or not (size := size or self.size):
                raise ImageError(self.row.problem or "gives its image no height and width")
            _refuse_other_size(self.size or size, size)
            places = (read_element(self.path, *place) for place in self.row.places)
            instances = (each for place in places for each in self.instances_of(place))
            return draw(instances, self.reading.label_of, size, self.reading.min_score)

    @cached_property
    def scores(self) -> dict[int, float]:
        """Class index → score of its best instance; raises an ImageError."""
        found: dict[int, float] = {}
        with _damage(self.path):
            if self.row.problem:
                raise ImageError(self.row.problem)
            for name, score in self.row.scores.items():
                if label := self.reading.label_of(name):
                    found[label - 1] = max(score, found.get(label - 1, 0.0))
        return found


def _refuse_other_size(found: Size, size: Size) -> None:
    if tuple(found) != tuple(size):
        given, wanted = (f"{width}×{height}" for height, width in (found, size))
        raise ImageError(f"is of {given} pixels, and the image of {wanted}")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Names the file in errors; damaged JSON and shapes raise nearly anything."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"its mask cannot be used: {path} {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(error)}"
        raise ImageError(f"its mask cannot be used: {path} is damaged ({reason})") from error


@dataclass(frozen=True)
class AnnotatedMask(DerivedMask):
    """An annotation as the ground truth of an image, or as a mask to train on.

    Attributes:
        max_pixels: larger images are refused before they are drawn.
    """

    annotation: LabelImage | Drawing
    max_pixels: int | None = None

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        return [self.annotation.content, self.annotation.reading.facts]

    def read(self) -> np.ndarray:
        """Implements the base class."""
        height, width = self.annotation.size or (0, 0)
        try:
            if self.max_pixels is not None and height * width > self.max_pixels:
                raise ImageError(f"has more than dataset.max_pixels={self.max_pixels} pixels")
            return self.annotation.labels(None)
        except ImageError as error:
            raise UserError(f"image {self.kept.stem} {error}") from error


def as_mask(found: LabelImage | Drawing, kept: Path, max_pixels: int | None) -> GroundTruthMask:
    """Returns an annotation as a mask, which is drawn as the file ``kept`` where one is needed."""
    reading = found.reading
    if isinstance(found, LabelImage) and reading.values is None and not reading.by_colour:
        with suppress(OSError), Image.open(found.path) as image:
            if image.mode in (PALETTE, GREY):
                return MaskFile(found.path, reading.num_classes)
    return AnnotatedMask(kept, found, max_pixels)


@dataclass(frozen=True)
class LabelImages:
    """A folder with a PNG for each image, ``<id>.png``."""

    path: Path
    reading: Reading

    notes: Sequence[str] = ()

    @cached_property
    def entries(self) -> Mapping[str, Sequence[str]]:
        """Id of an image → its name below the folder."""
        return {image_id: [image_id] for image_id in ids_below(self.path, ".png")}

    def find(self, image_id: str) -> LabelImage:
        """Returns the PNG of an image; raises a NoEntry if there is none."""
        path = self.path / f"{image_id}.png"
        if not os.path.lexists(path):  # what is there and is not a file is damaged
            raise NoEntry(f"has no mask: {path} is missing", ids_below(self.path, ".png"))
        return LabelImage(path, self.reading)


@dataclass(frozen=True)
class Drawings:
    """A JSON file with the instances of all images, or a folder of labelme's files.

    Attributes:
        index: what is in it.
    """

    path: Path
    reading: Reading
    index: AnnotationIndex

    @cached_property
    def notes(self) -> list[str]:
        """What the user should know: the notes of the index, and instances that are of no class."""
        others = {n: c for n, c in self.index.counts.items() if not self.reading.label_of(n)}
        if not others:
            return self.index.notes
        names = ", ".join(f"{shown(name)} ({others[name]})" for name in [*others][:_MAX_NAMED])
        more = ", …" if len(others) > _MAX_NAMED else ""
        counted = f"{sum(others.values())} instances of names that are not classes"
        return [*self.index.notes, f"{self.path.name} has {counted}: {names}{more}"]

    @cached_property
    def entries(self) -> Mapping[str, Sequence[str]]:
        """Id of an image → its names in the file, of Label Studio in any folder."""
        found: dict[str, list[str]] = {}
        for name in self.index.rows:
            parts = name.split("/") if self.index.form == LABEL_STUDIO else [name]
            for start in range(len(parts)):
                found.setdefault("/".join(parts[start:]), []).append(name)
        return found

    def find(self, image_id: str) -> Drawing:
        """Returns the instances of an image; raises a NoEntry if the file does not list it."""
        names = self.entries.get(image_id, ())
        if not names:
            raise NoEntry(f"has no entry in {self.path}", self.entries)
        row = self.index.rows[names[0]]
        if len(names) > 1:
            row = replace(row, problem=f"has several entries of it, such as {shown(names[1])}")
        return Drawing(self.path / row.file, self.reading, row, self.index.instances_of)


Annotations = LabelImages | Drawings
"""The annotations of many images."""


def open_annotations(
    given: str,
    key: str,
    reading: Reading,
    cache: Path | None,
    split: str = "",
    several: bool = False,
) -> Annotations:
    """Opens a file or folder of annotations, that of a split where there is one below it.

    Args:
        given: the path, as the configuration has it.
        key: its key.
        cache: the folder of the indexes of large files.
        split: the split of the images; "" where the data set has one.
        several: whether the run works on other splits as well.

    Raises:
        UserError: it is missing or damaged, or could be that of another split.
    """
    path = given_path(given, key).absolute()
    below = [path / split, path / f"{split}.json"]
    if split and (found := [each for each in below if each.exists()]):
        path = found[0]
    elif several:
        raise UserError(
            f"{key}={shown(given)} holds neither {split}/ nor {split}.json: with several splits"
            " give a folder with one for each, since their images may have equal ids"
        )
    if not path.exists():
        raise UserError(
            f"{key}={shown(given)} does not exist: give a folder of label PNGs, or the JSON of"
            " COCO, Label Studio or labelme"
        )
    if path.is_dir() and not holds_labelme(path):
        return LabelImages(path, reading)
    return Drawings(path, reading, read_index(path, cache))
