"""Markdown tables and the numbers in them; imports nothing, so that tables start at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MARKS = "†‡§¶"
"""What stands beside a figure that has a note, in their order."""


class Table(NamedTuple):
    """A table with its title, for whatever it is written as.

    Attributes:
        title: what it shows, with the unit.
        header: the names of the columns; the first column holds words, the others numbers.
        rows: the cells, as many in each row as there are columns.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        """Returns a section of Markdown."""
        return f"## {self.title}\n\n{markdown_table(self.header, self.rows)}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is aligned left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *rows])


def padded_table(header: Sequence[str], rows: Iterable[Sequence[str]], text: Iterable[str]) -> str:
    """Returns a Markdown table whose columns also line up where it is read as plain text.

    Args:
        header: the names of the columns.
        rows: the cells, as many in each row as there are columns.
        text: the names of the columns that hold words, which are aligned left; numbers are aligned
            right.
    """
    words = set(text)
    lines = [[_escape(cell) for cell in row] for row in [header, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*lines)]
    left = [name in words for name in header]
    rule = ["-" * w if is_left else "-" * (w - 1) + ":" for w, is_left in zip(widths, left)]
    padded = [
        [cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left)]
        for row in lines
    ]
    return "".join("| " + " | ".join(row) + " |\n" for row in [padded[0], rule, *padded[1:]])


def percent(value: float | None) -> str:
    """Returns a share in percent with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def percent_or_blank(value: float | None) -> str:
    """Returns a share in percent with one decimal, or nothing."""
    return "" if value is None else percent(value)


class Notes:
    """The notes below a table, each with the mark by which its figures refer to it."""

    def __init__(self) -> None:
        """Starts without notes."""
        self._marks: dict[str, str] = {}

    def mark(self, note: str) -> str:
        """Returns the mark of a note; equal notes share one."""
        count = len(self._marks)
        return self._marks.setdefault(note, MARKS[count % len(MARKS)] * (1 + count // len(MARKS)))

    def lines(self) -> str:
        """Returns the notes, a paragraph each, after an empty line; nothing without notes."""
        return "".join(f"\n{mark} {note}\n" for note, mark in self._marks.items())


def _escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
