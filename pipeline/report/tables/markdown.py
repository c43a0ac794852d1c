"""Tables as Markdown, and the format of their numbers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

_MARKS = "†‡§¶"


@dataclass(frozen=True)
class Table:
    """A table with the words around it, for Markdown or HTML."""

    header: Sequence[str]  # the names of the columns
    rows: Sequence[Sequence[str]]  # a cell for each column
    words: Collection[str]  # the columns of words, aligned left; the others hold numbers
    title: str = ""  # the heading
    caption: str = ""  # a paragraph above the table
    notes: Sequence[str] = ()  # paragraphs below it
    best: Collection[tuple[int, int]] = ()  # row and column of the cells in bold

    @property
    def text(self) -> str:
        """The table alone, whose columns also line up in plain text."""
        columns = []
        for number, (name, *cells) in enumerate(zip(self.header, *self.rows)):
            best = {row for row, column in self.best if column == number}
            marked = (f"**{cell}**" if row in best else cell for row, cell in enumerate(cells))
            cells = [_escape(cell) for cell in (name, *marked)]
            width = max(3, *map(len, cells))
            justify = str.ljust if name in self.words else str.rjust
            first, *others = (justify(cell, width) for cell in cells)
            columns.append([first, ("-" if name in self.words else ":").rjust(width, "-"), *others])
        return "".join(map(_line, zip(*columns)))

    @property
    def narrow(self) -> str:
        """The table alone, without padding; the first column is aligned left, the others right."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        return "".join(_line(map(_escape, cells)) for cells in [self.header, rule, *self.rows])

    def markdown(self, heading: str = "##", *, padded: bool = True) -> str:
        """Returns the table below its title and caption, as far as it has them, and the notes."""
        title = f"{heading} {self.title}" if self.title else ""
        above = "".join(f"{part}\n\n" for part in (title, self.caption) if part)
        below = "".join(f"\n{note}\n" for note in self.notes)
        return above + (self.text if padded else self.narrow) + below


def highest(texts: Mapping[int, str]) -> list[int]:
    """Returns where the highest number stands, as it is printed; nowhere where all are alike."""
    if len(set(texts.values())) < 2:
        return []
    best = max(filter(None, texts.values()), key=float)
    return [place for place, text in texts.items() if text == best]


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

    def paragraphs(self) -> list[str]:
        """Returns the notes, each after its mark."""
        return [f"{mark} {note}" for note, mark in self.items()]


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
