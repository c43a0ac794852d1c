"""Progress bars on stderr: images a second, time left, and how many were left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

_bars: list[Callable[..., None]] = []  # of blocks that run, the innermost last


class _Speed(ProgressColumn):
    """Steps a second over the last minute."""

    def render(self, task: Task) -> Text:
        """Returns the column's text."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


@contextmanager
def _bar(title: str, total: int | None, *columns: ProgressColumn) -> Iterator[Callable[..., None]]:
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), *columns)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield partial(progress.update, progress.add_task(title, total=total, note=""))


@contextmanager
def track(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar while the block runs; silent where stderr is no terminal.

    The block gets a function of the number of steps done, 1 unless it is given, and a note to show.
    """
    columns = (MofNCompleteColumn(), _Speed(), TimeElapsedColumn(), TimeRemainingColumn())
    with _bar(title, total, *columns, TextColumn("{task.fields[note]}")) as update:
        _bars.append(lambda steps=1, note="": update(advance=steps, note=note))
        try:
            yield _bars[-1]
        finally:
            _bars.pop()


def say(note: str) -> None:
    """Shows what happens until the next step beside the bar, if there is one."""
    if _bars:
        _bars[-1](0, note)


@contextmanager
def track_bytes(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how much of a file was processed while the block runs; silent as :func:`track`.

    The block gets a function of the number of bytes done, and of all if that is known.
    """
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bar(title, None, *columns) as update:
        yield lambda done, total: update(completed=done, total=total)
