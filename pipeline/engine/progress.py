"""Progress bars on stderr: which of several stages, images per second, time left, and a note."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress as bars
from rich.console import Console
from rich.table import Column
from rich.text import Text

_SECONDS, _SHARE = 10, 0.02
"""So much time, and such a part of the steps, lie between two printed bars at least."""

_COLUMNS = 120  # of a printed bar

course = {"stage": 0, "of": 0}  # the number of a run's stage, from 1, and of all; 0 without a run

_newest: list[Callable[..., None]] = []  # what moves the bar that was begun last

notes: dict[str, None] = {}  # its keys are what this process noted so far


class _Speed(bars.ProgressColumn):
    """Steps a second over the last minute."""

    def render(self, task: bars.Task) -> Text:
        """Returns the column's text."""
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


@contextmanager
def _bar(title: str, total: int | None, *columns: bars.ProgressColumn) -> Iterator[Callable]:
    console, said = Console(file=sys.stderr), Text(no_wrap=True, overflow="ellipsis")
    if is_one_of_several := course["of"] > 1:
        title = f"stage {course['stage']} of {course['of']}: {title}"
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *columns)
    columns += (bars.RenderableColumn(said),)
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=total)
        (task,) = bar.tasks
        printed, done = time.monotonic(), 0.0

        def update(note: str = "", at_once: bool = False, **changes: float | None) -> None:
            nonlocal printed, done
            said.plain = note
            bar.update(task.id, **changes)
            is_due = task.completed - done > _SHARE * (task.total or 0)
            if bar.disable and (at_once or (is_due and time.monotonic() - printed > _SECONDS)):
                printed, done, console.width = time.monotonic(), task.completed, _COLUMNS
                console.print(bar)

        update(at_once=is_one_of_several)
        yield update


@contextmanager
def track(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar while the block runs; without a terminal, it prints a long one now and then.

    The block gets a function of the number of steps done, 1 unless it is given, and a note to show.
    """
    whole = Column(no_wrap=True)  # in a narrow terminal, bar and note are cut, and not the numbers
    kinds = (bars.MofNCompleteColumn, _Speed, bars.TimeElapsedColumn, bars.TimeRemainingColumn)
    with _bar(title, total, *(kind(table_column=whole) for kind in kinds)) as update:
        _newest[:] = [advance := lambda steps=1, note="": update(note, advance=steps)]
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
