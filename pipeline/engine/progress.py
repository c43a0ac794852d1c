"""Progress bars on stderr: images a second, time left, and how many were left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


class _Speed(ProgressColumn):
    """Steps a second over the last minute."""

    def render(self, task: Task) -> Text:
        """Returns the column's text."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


@contextmanager
def track(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar while the block runs; silent where stderr is no terminal.

    The block gets a function of the number of steps done, 1 unless it is given, and a note to show.
    """
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.update(task, advance=steps, note=note)

        yield advance


@contextmanager
def track_bytes(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how much of a file was processed while the block runs; silent as :func:`track`.

    The block gets a function of the number of bytes done, and of all if that is known.
    """
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    columns += (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
