"""Lists of images with their classes: TagCLIP's format, and tables that users write."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib import parse

from pipeline.datasets.annotations import Annotations, open_annotations, refuse_brush
from pipeline.datasets.corrections import is_corrections, read_corrections
from pipeline.datasets.ground_truth import AnnotatedMask, MaskFile
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.settings import DatasetSettings, splits_of_run
from pipeline.datasets.vocabulary import Vocabulary, same_name
from pipeline.engine.progress import note
from pipeline.engine.sample import ByName, Dataset, Labels, Sample, Splits
from pipeline.errors import NoEntry, UserError, first_of, shown
from pipeline.files.label_images import refuse_brush_masks
from pipeline.files.text import given_path, read_rows, read_text

_WANTED = "give a list with one image per line"
_NOT_UTF8 = "surrogateescape"  # keeps bytes of file names that are not UTF-8, see os.fsdecode


def apply_lists(dataset: Dataset[Vocabulary], settings: DatasetSettings) -> Dataset[Vocabulary]:
    """Applies ``dataset.image_list``, ``dataset.labels`` and ``dataset.masks`` to a data set.

    The images keep the order of the list. Labels and masks replace those of the data set. If it has
    a single split, its ``notes`` count the names in ``labels`` without an image; with several
    splits, the list may be of another one. Raises a UserError if a file is missing or does not fit.
    """
    chosen = splits_of_run(settings, dataset.splits)
    if settings.image_list is not None and len(chosen) != 1:
        raise UserError(
            "dataset.image_list holds the images of one split: say which, as in dataset.split=val"
        )
    known = None if settings.labels is None else _read_labels(settings, dataset.vocabulary.classes)
    given = _Given(dataset, settings, chosen, known)
    splits = Splits[Sample]({split: partial(given.read, split) for split in dataset.splits})
    ids = Splits[str]({split: partial(given.ids, split) for split in dataset.splits})
    notes = (*dataset.notes, *given.notes()) if known else dataset.notes
    return replace(dataset, splits=splits, notes=notes, all_ids=dataset.all_ids or ids)


def _read_labels(
    settings: DatasetSettings, classes: Sequence[str]
) -> Mapping[str, ByName[Labels]] | None:
    """Returns split, or "" for all → name of an image → labels; none for annotations as JSON."""
    path = given_path(settings.labels, "dataset.labels")
    suffix = path.suffix.lower()
    if suffix == ".csv" and path.is_file() and is_corrections(path):
        return read_corrections(path, "dataset.labels", classes)
    if suffix == ".json" and path.is_file():
        return None
    return {"": read_image_classes(path, classes, settings.values)}


class _Given(NamedTuple):
    """What files say of the images of a data set."""

    dataset: Dataset[Vocabulary]
    settings: DatasetSettings
    chosen: Sequence[str]  # the splits of the run
    known: Mapping[str, ByName[Labels]] | None  # see _read_labels

    def ids(self, split: str) -> list[str]:
        return [sample.id for sample in self.dataset.splits[split]]

    def read(self, split: str) -> list[Sample]:
        samples, given = self.dataset.splits[split], self.settings
        if given.image_list is not None and split in self.chosen:
            samples = _select(samples, given_path(given.image_list, "dataset.image_list"), split)
        if given.labels is not None:
            samples = self._labelled(samples, split)
        if given.masks is not None:
            samples = self._masked(samples, split)
        if paths := [s.mask.path for s in samples if isinstance(s.mask, MaskFile)]:
            remedy = "if so, give dataset.values=[255]; if not, dataset.values=[1]"
            refuse_brush_masks(paths, "the ground truth", remedy)
        return samples

    def _labelled(self, samples: Sequence[Sample], split: str) -> Sequence[Sample]:
        labels, given = self.settings.labels, [None] * len(samples)
        if self.known is not None:
            named, by_name = self.known.get("", {}) | self.known.get(split, {}), _by_name(samples)
            given = [_listed_labels(named, by_name, sample) for sample in samples]
        elif found := self._open("dataset.labels", labels, samples, split):
            entries = [self._annotated(found, sample) for sample in samples]
            given = [None if entry is None else entry.classes for entry in entries]
        self._refuse_unused(given, f"dataset.labels={labels} names", split)
        return [s if k is None else replace(s, labels=k) for s, k in zip(samples, given)]

    def _masked(self, samples: Sequence[Sample], split: str) -> Sequence[Sample]:
        masks = self.settings.masks
        if not (found := self._open("dataset.masks", masks, samples, split)):
            return samples
        given = [self._annotated(found, sample) for sample in samples]
        self._refuse_unused(given, f"dataset.masks={masks} holds the mask of", split)
        refuse_brush(found, {sample.id for sample in samples}, "dataset.masks")
        return [replace(s, mask=mask) for s, mask in zip(samples, given)]

    def _open(
        self, key: str, given: str, samples: Sequence[Sample], split: str
    ) -> Annotations | None:
        """Opens what is given for a split; one file is not that of two splits of equal ids."""
        ids, classes = {sample.id for sample in samples}, self.dataset.vocabulary.classes
        others = (name for name in self.chosen if name != split)
        shared = any(not ids.isdisjoint(self.ids(name)) for name in others)
        name = split if len(self.dataset.splits) > 1 else ""
        reading, holds_tags = Reading.of(self.settings, "dataset", classes), key == "dataset.labels"
        files = [sample.file for sample in self.dataset.splits[split]]
        try:
            found = open_annotations(given, key, reading, name, shared, holds_tags, ids, files)
        except UserError:
            if shared and split not in self.chosen:
                return None
            raise
        note(*found.notes)
        return found

    def _annotated(self, found: Annotations, sample: Sample) -> AnnotatedMask | None:
        with suppress(NoEntry):
            return AnnotatedMask(sample.id, found.find(sample.id), self.settings.max_pixels)
        return None

    def _refuse_unused(self, given: Sequence, does: str, split: str) -> None:
        # With several splits, a list may be of another one.
        if self.chosen == [split] and all(each is None for each in given):
            raise UserError(
                f"{does} none of the images of split {split}: correct the file, or give another"
            )

    def notes(self) -> Iterator[str]:
        """Yields what is said of a list that names no image, where there is a single split."""
        if len(self.dataset.splits) > 1:
            return
        [split] = self.dataset.splits
        names = _by_name(self.dataset.splits[split]) | dict(self.dataset.rejected.get(split, []))
        listed = (name for s in ("", split) for name in self.known.get(s, {}))
        if others := [name for name in listed if name not in names]:
            file = Path(self.settings.labels).name
            yield f"{file} names {first_of(others)}, which are not images"


def _by_name(samples: Sequence[Sample]) -> ByName[Sample]:
    """Returns the images by the names that a list may give: an id, or a file, which wins."""
    return ByName({s.id: s for s in samples} | {s.file: s for s in samples})


def _listed_labels(known: ByName[Labels], by_name: ByName[Sample], sample: Sample) -> Labels | None:
    """Returns the labels of an image in a list, if it has any there."""
    own = sample.id, sample.file
    names = {known[n]: n for n in own if n in known and by_name[n] is sample}
    if len(names) > 1:
        first, second = map(shown, names.values())
        raise UserError(
            f"dataset.labels gives {first} and {second} different classes, which are one image:"
            " keep one of the lines"
        )
    return next(iter(names), None)


def _select(samples: Sequence[Sample], path: Path, split: str) -> list[Sample]:
    """Returns the samples that a list names, in its order."""
    by_name = _by_name(samples)
    text = read_text(path, f"dataset.image_list={shown(path)}", _WANTED)
    lines = filter(None, map(str.strip, text.splitlines()))
    # Ids with white space are accepted without the encoding too.
    named = dict.fromkeys(n if n in by_name else unquote(n.split()[0]) for n in lines)
    if unknown := [name for name in named if name not in by_name]:
        raise UserError(
            f"{path} names {first_of(unknown)}, which split {split} does not have: give"
            " another dataset.image_list or dataset.split"
        )
    if not named:
        raise UserError(f"dataset.image_list={path} is empty: give a list with one image per line")
    return list({by_name[name].id: by_name[name] for name in named}.values())


def read_image_classes(
    path: Path, classes: Sequence[str], numbers: Sequence[int] | None = None
) -> ByName[Labels]:
    """Reads the classes of images: name of an image in the file → class indices.

    A ``.csv`` file has an image and the names of its classes on every line, and any other file is a
    list in TagCLIP's format, with indices.

    ``numbers`` has the number of each class in a list with indices; none for 0 to n-1. Raises as
    :func:`read_class_list`.
    """
    if path.suffix.lower() == ".csv":
        name = f"dataset.labels={shown(path)}"
        rows = read_rows(path, name, _WANTED, skipinitialspace=True)
        indices = {same_name(name): k for k, name in enumerate(classes)}
        return _collect(
            path,
            rows,
            lambda image: Path(image).as_posix(),
            lambda name: indices.get(same_name(name)),
            "is not in dataset.classes: correct it",
        )
    numbers = range(len(classes)) if numbers is None else numbers
    known = {str(number): k for k, number in enumerate(numbers)}
    return read_class_list(path, "dataset.labels", known)


def read_class_list(path: Path, key: str, known: Mapping[str, int]) -> ByName[Labels]:
    """Reads a list in TagCLIP's format: an image id and the numbers of its classes on every line.

    White space in an id is percent-encoded. ``key`` is the configuration key that named the file,
    for errors; ``known`` has number of a class, as text → its index. Raises a UserError if there is
    no such file, a line has an unknown class, or two lines give an image different classes.
    """
    text = read_text(path, f"{key}={shown(path)}", _WANTED)
    lines = enumerate(map(str.split, text.splitlines()), 1)
    first, last = min(known, key=int, default=0), max(known, key=int, default=0)
    wrong = f"is not a class: give numbers from {first} to {last}"
    return _collect(path, lines, unquote, known.get, wrong)


def _collect(
    path: Path,
    lines: Iterable[tuple[int, Sequence[str]]],
    plain: Callable[[str], str],
    index_of: Callable[[str], int | None],
    wrong: str,
) -> ByName[Labels]:
    """Returns the classes of images from the cells of lines: an image and what stands for classes.

    A repeated image must have the same classes. ``plain`` decodes an image, and ``wrong`` is what
    errors say of a cell without an index.
    """
    found = ByName[tuple[Labels, int]]()
    for number, cells in lines:
        image, *names = map(str.strip, cells or [""])
        indices = {name: index_of(name) for name in names if name}
        if unknown := [name for name, index in indices.items() if index is None]:
            raise UserError(f"{path}, line {number}: {shown(unknown[0])} {wrong}")
        if not image:
            continue
        labels = tuple(sorted({*indices.values()}))
        known, first = found.setdefault(plain(image), (labels, number))
        if labels != known:
            raise UserError(
                f"{path}, line {number}: {shown(plain(image))} has other classes than in line"
                f" {first}: give all of its classes in one line"
            )
    return ByName((image, labels) for image, (labels, _) in found.items())


def format_class_list(labels: Mapping[str, Sequence[int]]) -> str:
    """Returns a list of ids and class indices in TagCLIP's format, a line each.

    White space in an id is percent-encoded, and so are bytes of a file's name that are not UTF-8.
    """
    special = re.compile(r"[\s%\ud800-\udfff]")
    lines = []
    for image_id, indices in labels.items():
        encoded = special.sub(lambda found: parse.quote(found[0], errors=_NOT_UTF8), image_id)
        lines.append(" ".join([encoded, *map(str, indices)]) + "\n")
    return "".join(lines)


def unquote(encoded: str) -> str:
    """Returns the id that :func:`format_class_list` encoded."""
    return parse.unquote(encoded, errors=_NOT_UTF8)
