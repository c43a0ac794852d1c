"""Which colour of a mask stands for which label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.datasets.vocabulary import BACKGROUND, IGNORE, same_name, voc_palette
from pipeline.errors import UserError, shown
from pipeline.files.text import read_text

Colour = tuple[int, int, int]
"""Red, green and blue, each of 0 to 255."""

IGNORED_NAMES = ("ignore", "void")
"""What a table calls label 255."""

_BLACK = (0, 0, 0)
_GAP = r"[\s,]+"
_COLOUR = rf"(?P<red>\d{{1,3}}){_GAP}(?P<green>\d{{1,3}}){_GAP}(?P<blue>\d{{1,3}})"
_COLOUR_FIRST = re.compile(rf"{_COLOUR}{_GAP}(?P<name>\S.*)")
_NAME_FIRST = re.compile(rf"(?P<name>\S.*?)\s*[\s,:]\s*{_COLOUR}\s*(?::.*)?")
_HEADER = re.compile(r"name\s*,\s*r\s*,\s*g\s*,\s*b", re.IGNORECASE)


def voc_colours(class_count: int) -> dict[Colour, int]:
    """Returns the labels of PASCAL VOC's colours: 0 to n, and 255."""
    palette = voc_palette(256)
    return {palette[label]: label for label in (*range(class_count + 1), IGNORE)}


def read_colours(path: Path, classes: Sequence[str]) -> dict[Colour, int]:
    """Reads a table of colours.

    A line is a colour and a name, in one of the forms in which such tables come: ``64 128 64 cat``
    (CamVid's ``label_colors.txt``), ``cat,64,128,64`` (its ``class_dict.csv``), ``cat:64,128,64::``
    (CVAT's ``labelmap.txt``). Names are those of classes, ``background``, and ``ignore`` or
    ``void``; several colours may have one name. Black is the background where the table does not
    say what it is.

    Args:
        path: the file; what follows ``#`` at the beginning of a line is passed over.
        classes: the n class names.

    Returns:
        Colour → label: 0 background, k+1 class k, 255 ignore.

    Raises:
        UserError: no such file, or a line that is no colour and the name of a class.
    """
    labels = {same_name(name): k + 1 for k, name in enumerate(classes)}
    labels |= {same_name(BACKGROUND): 0}
    for name in IGNORED_NAMES:
        labels.setdefault(same_name(name), IGNORE)
    text = read_text(path, f"--colours {shown(path)}", "give a table with a colour a line")
    colours: dict[Colour, int] = {}
    for number, name, colour in _lines(text, path):
        where = f"{path}, line {number}"
        if max(colour) > 255:
            raise UserError(f"{where}: {colour} is no colour: give three numbers from 0 to 255")
        if same_name(name) not in labels:
            raise UserError(
                f"{where}: {shown(name)} is none of --classes: add it there, or call it"
                f" {IGNORED_NAMES[0]}"
            )
        label = labels[same_name(name)]
        if colours.setdefault(colour, label) != label:
            raise UserError(f"{where}: {colour} has another name above: give each colour one name")
    if not colours:
        raise UserError(f"{path} names no colour: give a table with a colour a line")
    colours.setdefault(_BLACK, 0)
    return colours


def _lines(text: str, path: Path) -> Iterator[tuple[int, str, Colour]]:
    """Yields number, name and colour of every line that holds one."""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#") or _HEADER.fullmatch(line):
            continue
        found = _COLOUR_FIRST.fullmatch(line) or _NAME_FIRST.fullmatch(line)
        if found is None:
            raise UserError(
                f"{path}, line {number}: {shown(line)} is no colour and name: write it as in"
                " 64 128 64 cat"
            )
        colour = (int(found["red"]), int(found["green"]), int(found["blue"]))
        yield number, found["name"].strip(), colour
