"""Corrected tags and masks: ``tags.corrections`` and ``masks.corrections``.

Corrected tags are a table that a report saves, which ``dataset.labels`` reads as well. It is
CSV by RFC 4180 with the header ``id,classes``; with several splits ``split`` is a third column. The
classes of an image are all that it shows, separated by ``;``; nothing stands for none. A ``;`` or
``\\`` in a name is escaped by ``\\``.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.datasets.annotations import Annotations, Drawing, LabelImage
from pipeline.datasets.vocabulary import same_name
from pipeline.engine.progress import note
from pipeline.engine.sample import Labels
from pipeline.errors import ImageError, UserError, did_you_mean, shown
from pipeline.files.fingerprints import fingerprint
from pipeline.files.text import read_text

BySplit = Mapping[str, Mapping[str, Labels]]
"""Split → image id → class indices; the split is "" in a file without splits."""


@dataclass(frozen=True)
class Corrections:
    """The corrected tags of a split, or its corrected masks.

    Attributes:
        tags: image id → class indices; of masks, those of all that can be read.
        file: the name of their file, without its folder.
        date: when it was saved (UTC).
        masks: image id → the mask that a person made; {} for tags alone.
        error: why they cannot be known; keys that depend on them raise it.
    """

    tags: Mapping[str, Labels] = field(default_factory=dict)
    file: str = ""
    date: str = ""
    masks: Mapping[str, LabelImage | Drawing] = field(default_factory=dict)
    error: UserError | None = None

    def __bool__(self) -> bool:
        return bool(self.contents)

    @cached_property
    def contents(self) -> Mapping[str, Any]:
        """Image id → its tags; or the fingerprint of its mask, "" if that cannot be read."""
        found = dict.fromkeys(self.masks, "")
        for image_id, mask in self.masks.items():
            with suppress(OSError):
                found[image_id] = fingerprint(mask.content, mask.reading.facts)
        return found or self.tags

    @cached_property
    def facts(self) -> dict[str, str]:
        """The fingerprint of the corrections, as keys hold it; {} where there are none."""
        if self.error is not None:
            raise self.error
        return {"corrections": fingerprint(self.contents)} if self else {}

    @property
    def legend(self) -> dict[str, dict[str, Any]]:
        """The fingerprint → what people call it; see :attr:`pipeline.engine.stage.Stage.legend`."""
        what, images = "masks" if self.masks else "tags", len(self.contents)
        about = {"what": what, "file": self.file, "images": images, "date": self.date}
        return dict.fromkeys(self.facts.values(), about)

    def tags_beside(self, table: "Corrections", classes: Sequence[str]) -> "Corrections":
        """Returns the tags of masks and of a table; raises a UserError if these contradict."""
        for image_id in self.tags.keys() & table.tags.keys():
            both = table.tags[image_id], self.tags[image_id]
            if both[0] != both[1]:
                listed, drawn = (join_names(classes[k] for k in tags) or "nothing" for tags in both)
                raise UserError(
                    f"image {shown(image_id)} shows {listed} in {table.file} and {drawn} in"
                    f" {self.file}: correct tags.corrections or masks.corrections"
                )
        files = " and ".join(each.file for each in (table, self) if each.tags)
        date, tags = max(table.date, self.date), {**table.tags, **self.tags}
        return Corrections(tags, files, date, error=self.error)

    def apply(self, image_id: str, found: Sequence[int]) -> dict[str, list[int]]:
        """Returns the "tags" of an image; if they are corrected, those that were "found" too."""
        if image_id not in self.tags:
            return {"tags": list(found)}
        return {"tags": list(self.tags[image_id]), "found": list(found)}


def saved(*paths: Path) -> str:
    """Returns when the newest of some files was saved (UTC)."""
    newest = max(path.lstat().st_mtime for path in paths)
    return f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M:%S}"


def corrected_masks(found: Annotations, known: Collection[str], split: str) -> Corrections:
    """Returns the masks of a split's images; raises a UserError if there are others."""
    masks, tags = {i: found.find(i) for i in found.entries if i in known}, {}
    named = {name for image_id in masks for name in found.entries[image_id]}
    refuse_unknown({*chain(*found.entries.values())} - named, known, split, found.path)
    note(*found.notes)
    for image_id, mask in masks.items():
        with suppress(ImageError):  # the stage of the masks says why
            scores, least = mask.scores, mask.reading.min_score
            tags[image_id] = tuple(sorted(k for k, score in scores.items() if score >= least))
    date = saved(*(mask.path for mask in masks.values())) if masks else ""
    file = "/".join(found.path.parts[-2 if found.path.stem == split else -1 :])
    return Corrections(tags, file, date, masks)


def refuse_unknown(
    names: Collection[str], known: Collection[str], split: str, file: object
) -> None:
    """Raises a UserError if a ``file`` corrects images that are not ``known`` in a split."""
    if unknown := sorted(set(names).difference(known)):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{file} names {shown(unknown[0])}{more}, which split {split} does not have:"
            f" {did_you_mean(unknown[0], known)}correct the file"
        )


_COLUMNS, _SPLIT = ("id", "classes"), "split"
_SPECIAL = re.compile(r"[;\\]")
_NAME = re.compile(r"(?:\\.|[^;\\])+", re.DOTALL)
_NAMES = re.compile(r"(?:\\.|[^\\])*", re.DOTALL)


def join_names(names: Iterable[str]) -> str:
    """Returns names as one cell."""
    return ";".join(_SPECIAL.sub(r"\\\g<0>", name) for name in names)


def split_names(cell: str) -> list[str]:
    """Returns the names that :func:`join_names` joined.

    Raises:
        ValueError: the cell ends in a single ``\\``.
    """
    if not _NAMES.fullmatch(cell):
        raise ValueError(cell)
    names = (re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in _NAME.findall(cell))
    return [name for name in names if name.strip()]


def is_corrections(path: Path) -> bool:
    """Tells whether a ``.csv`` file has the header of corrections."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return _is_header(next(csv.reader([file.readline(100)]), []))


def _is_header(cells: Sequence[str]) -> bool:
    return sorted(cells) in (sorted(_COLUMNS), sorted((*_COLUMNS, _SPLIT)))


def read_corrections(path: Path, key: str, classes: Sequence[str]) -> BySplit:
    """Reads corrected tags; ``key`` is the configuration key that names the file, for errors.

    Raises:
        UserError: no such file, another format, an unknown class, or an image that stands twice.
    """
    text = read_text(path, f"{key}={shown(path)}", "give the file that a report saves")
    known = {same_name(name): k for k, name in enumerate(classes)}
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, dict[str, Labels]] = {}
    try:
        header = next(rows, [])
        if not _is_header(header):
            begins = f"begins with {shown(','.join(header))}" if header else "is empty"
            raise UserError(
                f"{path} {begins}: its header is id,classes, with split as a third column where"
                " there are several splits"
            )
        for row in filter(None, rows):
            place = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise UserError(f"{place} has {len(row)} cells for {len(header)} columns")
            cells = dict(zip(header, row))
            if cells.get(_SPLIT) == "":
                raise UserError(f"{place} names no split: give it")
            images = found.setdefault(cells.get(_SPLIT, ""), {})
            if cells["id"] in images:
                raise UserError(f"{place}: {shown(cells['id'])} stands twice: keep one line")
            try:
                names = split_names(cells["classes"])
            except ValueError as error:
                cell = shown(cells["classes"])
                raise UserError(f"{place}: {cell} ends in \\: escape it as \\\\") from error
            for name in names:
                if same_name(name) not in known:
                    hint = did_you_mean(name, known)
                    raise UserError(f"{place}: {shown(name)} is not a class: {hint}correct it")
            images[cells["id"]] = tuple(sorted({known[same_name(name)] for name in names}))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num} is not CSV ({error}): correct it") from error
    return found
