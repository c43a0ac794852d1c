"""Corrected tags: a table that a report saves, for ``tags.corrections`` and ``dataset.labels``.

It is CSV by RFC 4180 with the header ``id,classes``; with several splits ``split`` is a third
column. The classes of an image are all that it shows, as :func:`~pipeline.files.text.join_cell`
writes them; nothing stands for none.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.datasets.vocabulary import same_name
from pipeline.engine.sample import ByName, Labels
from pipeline.errors import UserError, did_you_mean, shown
from pipeline.files.text import read_rows, split_cell

BySplit = Mapping[str, Mapping[str, Labels]]
"""Split → image id → class indices; the split is "" in a file without splits."""


def is_corrections(path: Path) -> bool:
    """Tells whether a ``.csv`` file has the header of corrections."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return is_header(next(csv.reader([file.readline(100)]), []))


def is_header(cells: Sequence[str]) -> bool:
    """Tells whether cells are the header of corrections."""
    return sorted(cells) in (["classes", "id"], ["classes", "id", "split"])


def read_corrections(path: Path, key: str, classes: Sequence[str]) -> BySplit:
    """Reads corrected tags; ``key`` is the configuration key that names the file, for errors.

    Raises a UserError for a missing file, another format, an unknown class or an image twice.
    """
    rows = read_rows(path, f"{key}={shown(path)}", "give the file that a report saves", strict=True)
    known = {same_name(name): k for k, name in enumerate(classes)}
    found: dict[str, ByName[Labels]] = {}
    _, header = next(rows, (1, []))
    if not is_header(header):
        begins = f"begins with {shown(','.join(header))}" if header else "is empty"
        raise UserError(
            f"{path} {begins}: its header is id,classes, with split as a third column where there"
            " are several splits"
        )
    for number, row in rows:
        place = f"{path}, line {number}"
        if len(row) != len(header):
            raise UserError(f"{place} has {len(row)} cells for {len(header)} columns")
        cells = dict(zip(header, row))
        if cells.get("split") == "":
            raise UserError(f"{place} names no split: give it")
        images = found.setdefault(cells.get("split", ""), ByName())
        if cells["id"] in images:
            raise UserError(f"{place}: {shown(cells['id'])} stands twice: keep one line")
        try:
            names = split_cell(cells["classes"])
        except ValueError as error:
            cell = shown(cells["classes"])
            raise UserError(f"{place}: {cell} ends in \\: escape it as \\\\") from error
        for name in names:
            if same_name(name) not in known:
                hint = did_you_mean(name, known)
                raise UserError(f"{place}: {shown(name)} is not a class: {hint}correct it")
        images[cells["id"]] = tuple(sorted({known[same_name(name)] for name in names}))
    return found
