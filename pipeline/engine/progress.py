"""Progress bars on stderr: images per second, remaining time, and the number of skipped images."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress as bars
from rich.console import Console
from rich.text import Text

_SECONDS, _SHARE = 10, 0.02
"""So much time, and such a part of the steps, lie between two printed bars at least."""

_COLUMNS = 120  # of a printed bar

_newest: list[Callable[..., None]] = []  # what moves the bar that was begun last

notes: dict[str, None] = {}  # its keys are what this process noted so far


class _Speed(bars.ProgressColumn):
    """Steps a second over the last minute."""

    def render(self, task: bars.Task) -> Text:
        """Returns the column's text."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


@contextmanager
def _bar(title: str, total: int | None, *columns: bars.ProgressColumn) -> Iterator[Callable]:
    console = Console(file=sys.stderr)
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *columns)
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=total, note="")
        (task,) = bar.tasks
        printed, done = time.monotonic(), 0.0

        def update(**changes: float | str | None) -> None:
            nonlocal printed, done
            bar.update(task.id, **changes)
            is_due = task.completed - done > _SHARE * (task.total or 0)
            if bar.disable and is_due and time.monotonic() - printed > _SECONDS:
                printed, done, console.width = time.monotonic(), task.completed, _COLUMNS
                console.print(bar)

        yield update


@contextmanager
def track(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar while the block runs; without a terminal, it prints a long one now and then.

    The block gets a function of the number of steps done, 1 unless it is given, and a note to show.
    """
    times = (bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    note = bars.TextColumn("{task.fields[note]}")
    with _bar(title, total, bars.MofNCompleteColumn(), _Speed(), *times, note) as update:
        _newest[:] = [advance := lambda steps=1, note="": update(advance=steps, note=note)]
        try:
            yield advance
        finally:
            if advance in _newest:  # what is said later belongs to no bar that has ended
                _newest.remove(advance)


def say(note: str) -> None:
    """Shows what happens until the next step, beside the bar that was begun last."""
    for advance in _newest:
        advance(0, note)


def note(*texts: str) -> None:
    """Tells the user each text once; a worker leaves that to the process that takes its results."""
    for text in texts:
        if text not in notes and multiprocessing.parent_process() is None:
            print(f"note: {text}", file=sys.stderr)
        notes[text] = None


@contextmanager
def track_bytes(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how much of a file was processed while the block runs, as :func:`track`.

    The block gets a function of the number of bytes done, and of all if that is known.
    """
    speed = (bars.DownloadColumn(), bars.TransferSpeedColumn())
    with _bar(title, None, *speed, bars.TimeRemainingColumn()) as update:
        yield lambda done, total: update(completed=done, total=total)
