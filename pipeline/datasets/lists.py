"""Lists of images with their classes: TagCLIP's format, and tables that people write by hand."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib import parse

from pipeline.datasets.ground_truth import GroundTruthMask, MaskFile, RelabelledMask
from pipeline.datasets.layout import existing_root
from pipeline.datasets.sample import Dataset, Labels, Sample, Splits, choose_splits
from pipeline.datasets.vocabulary import same_name
from pipeline.errors import UserError, shown
from pipeline.files.text import given_path, read_text

_VALUES = 256
"""Of a pixel of a mask."""

_NOT_UTF8 = "surrogateescape"
"""How the names of files hold bytes that are not UTF-8, see os.fsdecode."""


def apply_lists(dataset: Dataset, settings: Mapping) -> Dataset:
    """Applies what a person says about a data set's images beyond its own files.

    Args:
        dataset: as its reader found it.
        settings: ``image_list`` (a file whose lines begin with an id: only these images, in this
            order), ``labels`` (a file with the classes of images, which wins over the data set's
            own), ``masks`` (a folder with ``<id>.png``, which wins too), ``values`` (what class k
            is called in ``labels`` and ``masks``; none where they hold k and k+1), ``split``.

    Returns:
        The data set with all that applied to it. Where it has one split alone, whatever ``labels``
        names and is not there is in ``rejected``; of several, a list may well be of another.

    Raises:
        UserError: a file that is missing or does not fit.
    """
    listed, labels, masks = (settings.get(key) for key in ("image_list", "labels", "masks"))
    if listed is None and labels is None and masks is None:
        return dataset
    classes, values = dataset.vocabulary.classes, settings.get("values")
    known = None
    if labels is not None:
        known = read_labels(given_path(labels, "dataset.labels"), classes, values)
    folder = None if masks is None else existing_root(settings, "masks")
    table = value_table(values, classes) if values is not None else None

    def mask_of(sample: Sample) -> GroundTruthMask | None:
        path = folder / f"{sample.id}.png"
        if not _is_there(path):
            return None
        if table is None:
            return MaskFile(path, len(classes))
        return RelabelledMask(Path(settings["cache"]) / "masks" / f"{sample.id}.png", path, table)

    def revised(split: str) -> list[Sample]:
        samples = dataset.splits[split]
        if listed is not None and split in chosen:
            samples = _only(samples, given_path(listed, "dataset.image_list"), split)
        if known is not None:
            found = [_by_names(known, s) for s in samples]
            refuse_useless(found, f"dataset.labels={labels} names", split)
            samples = [s if f is None else replace(s, labels=f) for s, f in zip(samples, found)]
        if folder is not None:
            found = [mask_of(s) for s in samples]
            refuse_useless(found, f"dataset.masks={masks} holds the mask of", split)
            samples = [replace(s, mask=mask) for s, mask in zip(samples, found)]
        return samples

    def refuse_useless(found: Sequence, does: str, split: str) -> None:
        # Of several splits a list may well be that of another.
        if chosen == [split] and all(f is None for f in found):
            raise UserError(f"{does} none of the images of split {split}: give another or correct")

    chosen = _chosen_splits(dataset, settings)
    if listed is not None and len(chosen) != 1:
        raise UserError(
            "dataset.image_list holds the images of one split: say which, as in dataset.split=val"
        )
    splits = Splits({s: lambda s=s: revised(s) for s in dataset.splits})
    rejected = dict(dataset.rejected)
    if known is not None and len(dataset.splits) == 1:
        [split] = dataset.splits
        before = rejected.get(split, [])
        names = {name for sample in dataset.splits[split] for name in _names(sample)}
        names |= {name for name, _ in before}
        reason = f"has a line in {Path(labels).name}, but there is no such image: correct the name"
        rejected[split] = [*before, *((name, reason) for name in known if name not in names)]
    return replace(dataset, splits=splits, rejected=rejected)


def _is_there(path: Path) -> bool:
    """Tells whether there is anything of this name; what is no file is said when it is read."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _chosen_splits(dataset: Dataset, settings: Mapping) -> list[str]:
    """Returns the splits that a run works on."""
    default = [s for s in settings.get("default_splits") or () if s in dataset.splits]
    return choose_splits(settings.get("split") or default, list(dataset.splits))


def _names(sample: Sample) -> tuple[str, str]:
    """Returns what a list may call an image: its id, or its file."""
    return sample.id, f"{sample.id}{sample.image.suffix}"


def _by_names(known: Mapping[str, Labels], sample: Sample) -> Labels | None:
    found = {known[name]: name for name in _names(sample) if name in known}
    if len(found) > 1:
        first, second = map(shown, found.values())
        raise UserError(
            f"dataset.labels gives {first} and {second} different classes, which are one image:"
            " keep one of the lines"
        )
    return next(iter(found), None)


def _only(samples: Sequence[Sample], path: Path, split: str) -> list[Sample]:
    by_name = {name: s for s in samples for name in reversed(_names(s))}
    lines = _lines(path, "dataset.image_list")
    # A person may not know that white space is encoded.
    named = dict.fromkeys(
        line.strip() if line.strip() in by_name else unquote(line.split()[0]) for line in lines
    )
    unknown = [name for name in named if name not in by_name]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{path} names {shown(unknown[0])}{more}, which split {split} does not have: give"
            " another dataset.image_list or dataset.split"
        )
    if not named:
        raise UserError(f"dataset.image_list={path} is empty: give a list with an image a line")
    return list({by_name[name].id: by_name[name] for name in named}.values())


def value_table(values: Sequence[int], classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Returns (value, label) pairs from what a data set calls class k in its masks.

    Raises:
        UserError: not one value a class, or one that is none of a pixel.
    """
    if len(values) != len(classes):
        raise UserError(
            f"dataset.values holds {len(values)} numbers for {len(classes)} classes: give one for"
            " each class, in the same order"
        )
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _VALUES:
            raise UserError(
                f"dataset.values holds {shown(value)}: give whole numbers from 0 to {_VALUES - 1}"
            )
    if len(set(values)) < len(values):
        raise UserError("dataset.values holds a number twice: give each class one of its own")
    return tuple((value, k + 1) for k, value in enumerate(values))


def read_labels(
    path: Path, classes: Sequence[str], values: Sequence[int] | None = None
) -> dict[str, Labels]:
    """Reads the classes of images: what the file calls an image → class indices.

    A ``.csv`` file has an image and the names of its classes on every line; any other file is a
    list in TagCLIP's format, with indices.

    Args:
        path: the file.
        classes: the n class names.
        values: what class k is called in a list with indices; none where that is k.

    Raises:
        UserError: no such file, a line that names a class that is not there, or two lines that give
            an image different classes.
    """
    if path.suffix.lower() == ".csv":
        return _read_table(path, classes)
    numbers = (
        range(len(classes)) if values is None else (v for v, _ in value_table(values, classes))
    )
    known = {str(number): k for k, number in enumerate(numbers)}
    return read_class_list(path, "dataset.labels", known)


def _read_table(path: Path, classes: Sequence[str]) -> dict[str, Labels]:
    indices = {same_name(name): k for k, name in enumerate(classes)}
    lines = _Lines(path)
    text = io.StringIO(_text(path, "dataset.labels"), newline="")
    rows = csv.reader(text, skipinitialspace=True)
    try:
        for row in rows:
            image, *names = [cell.strip() for cell in row] or [""]
            unknown = [name for name in names if name and same_name(name) not in indices]
            if unknown:
                raise UserError(
                    f"{path}, line {rows.line_num}: {shown(unknown[0])} is none of dataset.classes:"
                    " correct it"
                )
            if image:
                found = {indices[same_name(name)] for name in names if name}
                lines.add(Path(image).as_posix(), found, rows.line_num)
    except csv.Error as error:  # a quote that is never closed makes one cell of all that follows
        raise UserError(f"{path}, line {rows.line_num} is no CSV ({error}): correct it") from error
    return lines.labels


class _Lines:
    """The classes of images, line by line; an image may be named again if they are the same."""

    def __init__(self, path: Path):
        self.labels: dict[str, Labels] = {}
        self._path = path
        self._numbers: dict[str, int] = {}

    def add(self, image: str, classes: Iterable[int], number: int) -> None:
        """Adds a line.

        Raises:
            UserError: one before it gives the image other classes.
        """
        labels = tuple(sorted(set(classes)))
        if self.labels.setdefault(image, labels) != labels:
            raise UserError(
                f"{self._path}, line {number}: {shown(image)} has other classes than in line"
                f" {self._numbers[image]}: give all of its classes in one line"
            )
        self._numbers.setdefault(image, number)


def read_class_list(path: Path, key: str, known: Mapping[str, int]) -> dict[str, Labels]:
    """Reads a list in TagCLIP's format: on every line an image id and what its classes are called.

    Args:
        path: the file; white space in an id is percent-encoded.
        key: the configuration key that named it, for errors.
        known: what a class is called in the file → its index.

    Raises:
        UserError: no such file, a line that is not an id and known classes, or two lines that give
            an image different classes.
    """
    lines = _Lines(path)
    for number, line in enumerate(_text(path, key).splitlines(), 1):
        if not line.strip():
            continue
        image_id, *called = line.split()
        unknown = [name for name in called if name not in known]
        if unknown:
            first, last = min(known, key=int), max(known, key=int)
            raise UserError(
                f"{path}, line {number}: {shown(unknown[0])} is no class: they go from {first} to"
                f" {last}"
            )
        lines.add(unquote(image_id), (known[name] for name in called), number)
    return lines.labels


def format_class_line(image_id: str, labels: Sequence[int]) -> str:
    """Returns a line in TagCLIP's format, in which any id is text without white space.

    White space is percent-encoded, and so are bytes of a file's name that are not UTF-8.
    """
    encoded = re.sub(r"[\s%\ud800-\udfff]", lambda m: parse.quote(m[0], errors=_NOT_UTF8), image_id)
    return " ".join([encoded, *map(str, labels)])


def unquote(encoded: str) -> str:
    """Returns the id that :func:`format_class_line` encoded."""
    return parse.unquote(encoded, errors=_NOT_UTF8)


def _lines(path: Path, key: str) -> list[str]:
    return [line for line in _text(path, key).splitlines() if line.strip()]


def _text(path: Path, key: str) -> str:
    return read_text(path, f"{key}={shown(path)}", "give a list with an image a line")
