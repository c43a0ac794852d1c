"""Tables of the colours that stand for labels in coloured masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.datasets.vocabulary import BACKGROUND, same_name, voc_palette
from pipeline.errors import UserError, shown
from pipeline.files.label_images import IGNORE
from pipeline.files.text import read_text

Colour = tuple[int, int, int]
"""Red, green and blue, from 0 to 255."""

IGNORE_NAMES = ("ignore", "void")
"""The names of label 255 in a table."""

_BLACK = (0, 0, 0)
_GAP = r"[\s,]+"
_COLOUR = rf"(?P<red>\d{{1,3}}){_GAP}(?P<green>\d{{1,3}}){_GAP}(?P<blue>\d{{1,3}})"
_COLOUR_FIRST = re.compile(rf"{_COLOUR}{_GAP}(?P<name>\S.*)")
_NAME_FIRST = re.compile(rf"(?P<name>\S.*?)\s*[\s,:]\s*{_COLOUR}\s*(?::.*)?")
_HEADER = re.compile(r"name\s*,\s*r\s*,\s*g\s*,\s*b", re.IGNORECASE)


def voc_colours(num_classes: int) -> dict[Colour, int]:
    """Returns the labels of PASCAL VOC's colours: 0 to n, and 255."""
    palette = voc_palette(256)
    return {palette[label]: label for label in (*range(num_classes + 1), IGNORE)}


def read_colours(path: Path, classes: Sequence[str]) -> dict[Colour, int]:
    """Reads a table of colours.

    A line is a colour and a name, in one of three usual forms: ``64 128 64 cat`` (CamVid's
    ``label_colors.txt``), ``cat,64,128,64`` (its ``class_dict.csv``), ``cat:64,128,64::`` (CVAT's
    ``labelmap.txt``). A name is that of a class, ``background``, ``ignore`` or ``void``; several
    colours may share a name. Black is the background unless the table says otherwise.

    Args:
        path: the file; lines that begin with ``#`` are comments.
        classes: the n class names.

    Returns:
        Colour → label: 0 background, k+1 class k, 255 ignore.

    Raises:
        UserError: the file is missing, or a line is not a colour and a known name.
    """
    labels = dict.fromkeys(map(same_name, IGNORE_NAMES), IGNORE)
    labels |= {same_name(name): k + 1 for k, name in enumerate(classes)}
    labels[same_name(BACKGROUND)] = 0
    text = read_text(path, f"--colours {shown(path)}", "give a table with a colour a line")
    colours: dict[Colour, int] = {}
    for number, name, colour in _lines(text, path):
        where = f"{path}, line {number}"
        if max(colour) > 255:
            raise UserError(f"{where}: {colour} is not a colour: give three numbers from 0 to 255")
        if same_name(name) not in labels:
            raise UserError(
                f"{where}: {shown(name)} is not among --classes: add it there, or call it"
                f" {IGNORE_NAMES[0]}"
            )
        label = labels[same_name(name)]
        if colours.setdefault(colour, label) != label:
            raise UserError(f"{where}: {colour} has another name above: give each colour one name")
    if not colours:
        raise UserError(f"{path} names no colour: give a table with a colour a line")
    colours.setdefault(_BLACK, 0)
    return colours


def _lines(text: str, path: Path) -> Iterator[tuple[int, str, Colour]]:
    """Yields the number, the name and the colour of every line that holds one."""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#") or _HEADER.fullmatch(line):
            continue
        match = _COLOUR_FIRST.fullmatch(line) or _NAME_FIRST.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}, line {number}: {shown(line)} is not a colour and a name: write it like"
                " 64 128 64 cat"
            )
        yield number, match["name"].strip(), tuple(int(match[c]) for c in ("red", "green", "blue"))
