"""Lists of images with their classes: TagCLIP's format, and tables that people write by hand."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.datasets.ground_truth import GroundTruthMask, MaskFile, RelabelledMask
from pipeline.datasets.layout import existing_root
from pipeline.datasets.sample import Dataset, Labels, Sample, Splits, choose_splits
from pipeline.errors import UserError


def apply_lists(dataset: Dataset, settings: Mapping) -> Dataset:
    """Applies what a person says about a data set's images beyond its own files.

    Args:
        dataset: as its reader found it.
        settings: ``image_list`` (a file whose lines begin with an id: only these images, in this
            order), ``labels`` (a file with the classes of images, which wins over the data set's
            own), ``masks`` (a folder with ``<id>.png``, which wins too), ``values`` (what class k
            is called in ``labels`` and ``masks``; none where they hold k and k+1), ``split``.

    Raises:
        UserError: a file that is missing or does not fit.
    """
    listed, labels, masks = (settings.get(key) for key in ("image_list", "labels", "masks"))
    if listed is None and labels is None and masks is None:
        return dataset
    classes, values = dataset.vocabulary.classes, settings.get("values")
    known = None
    if labels is not None:
        known = read_labels(Path(labels).expanduser(), classes, values)
    folder = None if masks is None else existing_root(settings, "masks")
    table = value_table(values, classes) if values is not None else None

    def mask_of(sample: Sample) -> GroundTruthMask | None:
        path = folder / f"{sample.id}.png"
        if not path.is_file():
            return None
        if table is None:
            return MaskFile(path, len(classes))
        return RelabelledMask(Path(settings["cache"]) / "masks" / f"{sample.id}.png", path, table)

    def revised(split: str) -> list[Sample]:
        samples = dataset.splits[split]
        if listed is not None and split in chosen:
            samples = _only(samples, Path(listed).expanduser(), split)
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
    return replace(dataset, splits=Splits({s: lambda s=s: revised(s) for s in dataset.splits}))


def _chosen_splits(dataset: Dataset, settings: Mapping) -> list[str]:
    """Returns the splits that a run works on."""
    default = [s for s in settings.get("default_splits") or () if s in dataset.splits]
    return choose_splits(settings.get("split") or default, list(dataset.splits))


def _names(sample: Sample) -> tuple[str, str]:
    """Returns what a list may call an image: its id, or its file."""
    return sample.id, f"{sample.id}{sample.image.suffix}"


def _by_names(known: Mapping[str, Labels], sample: Sample) -> Labels | None:
    return next((known[name] for name in _names(sample) if name in known), None)


def _only(samples: Sequence[Sample], path: Path, split: str) -> list[Sample]:
    by_name = {name: s for s in samples for name in reversed(_names(s))}
    lines = _lines(path, "dataset.image_list")
    named = dict.fromkeys(unquote(line.split()[0]) for line in lines)
    unknown = [name for name in named if name not in by_name]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{path} names {unknown[0]}{more}, which split {split} does not have: give another"
            " dataset.image_list or dataset.split"
        )
    if not named:
        raise UserError(f"dataset.image_list={path} is empty: give a list with an image a line")
    return list({by_name[name].id: by_name[name] for name in named}.values())


def value_table(values: Sequence[int], classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Returns (value, label) pairs from what a data set calls class k in its masks.

    Raises:
        UserError: not one value a class.
    """
    if len(values) != len(classes):
        raise UserError(
            f"dataset.values holds {len(values)} numbers for {len(classes)} classes: give one for"
            " each class, in the same order"
        )
    return tuple((int(value), k + 1) for k, value in enumerate(values))


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
        UserError: no such file, or a line that names a class that is not there.
    """
    if path.suffix.lower() == ".csv":
        return _read_table(path, classes)
    indices = range(len(classes)) if values is None else values
    known = {str(int(value)): k for k, value in enumerate(indices)}
    return read_class_list(path, "dataset.labels", known)


def _read_table(path: Path, classes: Sequence[str]) -> dict[str, Labels]:
    indices = {name: k for k, name in enumerate(classes)}
    labels = {}
    text = io.StringIO(_text(path, "dataset.labels"), newline="")
    rows = csv.reader(text, skipinitialspace=True)
    for row in rows:
        image, *names = [cell.strip() for cell in row] or [""]
        unknown = [name for name in names if name and name not in indices]
        if unknown:
            raise UserError(
                f"{path}, line {rows.line_num}: {unknown[0]} is none of dataset.classes: correct it"
            )
        if image:
            labels[Path(image).as_posix()] = tuple(
                sorted({indices[name] for name in names if name})
            )
    return labels


def read_class_list(path: Path, key: str, known: Mapping[str, int]) -> dict[str, Labels]:
    """Reads a list in TagCLIP's format: on every line an image id and what its classes are called.

    Args:
        path: the file; white space in an id is percent-encoded.
        key: the configuration key that named it, for errors.
        known: what a class is called in the file → its index.

    Raises:
        UserError: no such file, or a line that is not an id and known classes.
    """
    labels = {}
    for number, line in enumerate(_text(path, key).splitlines(), 1):
        if not line.strip():
            continue
        image_id, *called = line.split()
        unknown = [name for name in called if name not in known]
        if unknown:
            first, last = min(known, key=int), max(known, key=int)
            raise UserError(
                f"{path}, line {number}: {unknown[0]} is no class: they go from {first} to {last}"
            )
        labels[unquote(image_id)] = tuple(sorted({known[name] for name in called}))
    return labels


def format_class_line(image_id: str, labels: Sequence[int]) -> str:
    """Returns a line in TagCLIP's format; white space in the id is percent-encoded."""
    encoded = re.sub(r"[\s%]", lambda match: quote(match[0]), image_id)
    return " ".join([encoded, *map(str, labels)])


def _lines(path: Path, key: str) -> list[str]:
    return [line for line in _text(path, key).splitlines() if line.strip()]


def _text(path: Path, key: str) -> str:
    if not path.is_file():
        raise UserError(f"{key}={path} is no file: give a list with an image a line")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}={path} is not UTF-8 text: save it as such") from error
