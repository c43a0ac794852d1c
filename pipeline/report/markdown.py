"""Markdown tables and the numbers in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import mean, stdev
from typing import NamedTuple

_MARKS = "†‡§¶"


class Table(NamedTuple):
    """A table as Markdown or HTML; the first column holds words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()  # paragraphs below it


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is aligned left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(_line(map(_cell, cells)) for cells in [header, rule, *rows])


def padded_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], words: Collection[str]
) -> str:
    """Returns a Markdown table whose columns also line up in plain text.

    The columns that ``words`` names are aligned left, the others right, as numbers.
    """
    columns = []
    for name, *cells in zip(header, *rows):
        cells = [_cell(cell) for cell in (name, *cells)]
        width = max(3, *map(len, cells))
        justify = str.ljust if name in words else str.rjust
        first, *others = (justify(cell, width) for cell in cells)
        columns.append([first, ("-" if name in words else ":").rjust(width, "-"), *others])
    return "".join(map(_line, zip(*columns)))


def percent(value: float | None, missing: str = "–") -> str:
    """Returns a share in percent with one decimal."""
    return missing if value is None else f"{100 * value:.1f}"


def percent_of_several(values: Sequence[float]) -> str:
    """Returns the mean of shares in percent, and the standard deviation of several."""
    spread = f" ± {percent(stdev(values))}" if len(values) > 1 else ""
    return percent(mean(values)) + spread


class Notes(dict[str, str]):
    """The notes below a table → the mark that refers to each."""

    def mark(self, note: str) -> str:
        """Returns the mark of a note; equal notes share one."""
        mark = _MARKS[len(self) % len(_MARKS)] * (1 + len(self) // len(_MARKS))
        return self.setdefault(note, mark)

    def lines(self) -> str:
        """Returns the notes, a paragraph each, after an empty line; nothing without notes."""
        return "".join(f"\n{mark} {note}\n" for note, mark in self.items())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
