"""Workers of this machine and of others, behind the interface of :mod:`concurrent.futures`.

A worker may die: the system kills it when memory runs out, its machine goes, a library crashes on
some image. What it was doing is then done by another.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from joblib.externals.loky import get_reusable_executor

from pipeline.errors import ImageError

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_DEATHS = 2
"""Workers that may die of one item while they do nothing else, before it is given up."""


_PARENT_POLL = 1.0  # seconds

DIED = "its process was killed, twice: perhaps by the system, for want of memory"
"""Why an image is left out whose workers died."""


class WorkersDied(Exception):
    """The workers that were given an item died, one after the other, with nothing beside it."""


class Pool(Protocol):
    """Workers.

    Attributes:
        size: how many there are, as far as that is known.
        deaths: what a future raises whose worker died.
    """

    size: int
    deaths: tuple[type[Exception], ...]

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:  # noqa: ANN401
        """Has work done by a worker."""

    def close(self, at_once: bool = False) -> None:
        """Lets the workers go; ``at_once`` without waiting for what they are doing."""


class ProcessPool:
    """Processes of this machine, started anew when one of them dies.

    They are started afresh rather than forked, since a fork of a process whose threads compute, as
    PyTorch's do, may hang; and kept for the next stage, since it takes them seconds to start.
    """

    deaths = (BrokenProcessPool,)

    def __init__(self, size: int, threads: int = 1):
        """Starts no process yet.

        Args:
            size: processes.
            threads: of torch, in each.
        """
        self.size = size
        self._threads = threads

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:  # noqa: ANN401
        """Has work done by a process, which is started where there is none."""
        try:
            return self._processes().submit(work, *arguments)
        except BrokenProcessPool:  # a process died since the last result was taken
            return self._processes().submit(work, *arguments)

    def _processes(self) -> Executor:
        # Torch, too, takes the number of its threads from here when it is imported.
        threads = {f"{library}_NUM_THREADS": str(self._threads) for library in ("OMP", "MKL")}
        return get_reusable_executor(
            self.size, initializer=_begin_process, initargs=(os.getpid(),), env=threads
        )

    def close(self, at_once: bool = False) -> None:
        """Keeps idle processes for whoever comes next; ``at_once`` kills all of them."""
        if at_once:
            self._processes().shutdown(kill_workers=True)


def _begin_process(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """Ends this process soon after the one that started it was killed."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os._exit(1)


@dataclass
class _Attempt(Generic[Item]):
    item: Item
    is_alone: bool = False
    deaths: int = 0


def spread(
    pool: Pool, work: Callable[[Item], Result], items: Iterable[Item], most: int | None = None
) -> Iterator[tuple[Item, Result | WorkersDied]]:
    """Has work done by workers, and what a dying worker leaves undone by another.

    When a worker dies it is not known of which item. All that were under way are then tried one by
    one, so that none is blamed for its neighbour; an item whose workers die even so is given up.

    Args:
        pool: the workers.
        work: a function that can be pickled; whatever it raises is raised here.
        items: taken no further ahead of the results than ``most``.
        most: items under way at a time; by default two a worker.

    Yields:
        Items with their results, as they come.
    """
    most = most or 2 * pool.size
    waiting = map(_Attempt, items)
    suspects: deque[_Attempt[Item]] = deque()
    under_way: dict[Future[Result], _Attempt[Item]] = {}
    try:
        while True:
            if suspects:
                if not under_way:
                    attempt = suspects.popleft()
                    attempt.is_alone = True
                    under_way[pool.submit(work, attempt.item)] = attempt
            else:
                while len(under_way) < most and (attempt := next(waiting, None)) is not None:
                    under_way[pool.submit(work, attempt.item)] = attempt
            if not under_way:
                return
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                attempt = under_way.pop(future)
                try:
                    result = future.result()
                except pool.deaths:
                    attempt.deaths += attempt.is_alone
                    if attempt.deaths < MOST_DEATHS:
                        suspects.append(attempt)
                        continue
                    result = WorkersDied()
                yield attempt.item, result
    finally:
        for future in under_way:
            future.cancel()


def in_processes(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int
) -> Iterator[tuple[Item, Result | ImageError]]:
    """Does work on images in processes of this machine, while this one goes on producing items.

    It is for pydensecrf, which holds the GIL, so that threads would wait for each other and for the
    network.

    Args:
        items: taken one by one, no more ahead of the results than keep the processes busy, since
            the probabilities of a photograph take many megabytes.
        work: a function that can be pickled; whatever it raises is raised here.
        workers: processes; 1 works in this one.

    Yields:
        Items with their results, as they come; with an error where processes died of an item.
    """
    if workers <= 1:
        for item in items:
            yield item, work(item)
        return
    pool = ProcessPool(workers)
    try:
        for item, result in spread(pool, work, items, most=workers + 1):
            yield item, ImageError(DIED) if isinstance(result, WorkersDied) else result
    except BaseException:
        pool.close(at_once=True)
        raise
    pool.close()
