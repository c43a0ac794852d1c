"""Work in threads and in processes.

Another process takes over when one ends: memory ran out, a machine failed, or a library crashed.
"""

import gc
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from pipeline.engine.children import protect_children
from pipeline.engine.progress import note, notes
from pipeline.errors import ImageError, UserError

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

ItemType = TypeVar("ItemType")
Result = TypeVar("Result")

MAX_DEATHS = 2
"""Workers that may die while they process an item alone, before the item is given up."""

_PARENT_POLL = 1.0  # seconds

_MAX_GIVEN_UP = 3
"""Items that may be given up before the first one is done; then the workers are the cause."""

DIED = "its process was killed twice, perhaps by the system because memory ran out"
"""Why an image is skipped whose workers died."""


def count_cores() -> int:
    """Returns how many CPUs this process may use: its affinity and its container limit them."""
    import joblib  # costs a command that computes nothing more than all else

    return joblib.cpu_count()


def prefetch(
    items: Iterable[ItemType],
    work: Callable[[ItemType], Result],
    workers: int,
    max_pending: int,
    at_once: bool = False,
    caught: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[ItemType, Result | Exception]]:
    """Processes items in threads before their results are needed; yields them in order.

    At most ``max_pending`` results are computed or wait at a time, which bounds the memory; with
    ``at_once`` none waits for more than the next item. Errors are raised where results are taken,
    but those ``caught`` are yielded.
    """
    pending: deque[tuple[ItemType, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                while pending and (len(pending) >= max_pending or at_once and pending[0][1].done()):
                    first, future = pending.popleft()
                    error = future.exception()
                    yield first, error if isinstance(error, caught) else future.result()
            while pending:
                first, future = pending.popleft()
                error = future.exception()
                yield first, error if isinstance(error, caught) else future.result()
        finally:
            for _, future in pending:
                future.cancel()


class Pool(Protocol):
    """Workers.

    Attributes:
        size: their number, as far as it is known.
        deaths: the errors of a future whose worker died.
    """

    size: int
    deaths: tuple[type[Exception], ...]

    def submit(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Submits work to a worker."""

    def close(self, at_once: bool = False) -> None:
        """Ends the workers; ``at_once`` does not wait for their work."""


class ProcessPool:
    """Processes of this machine, which are started again when one of them dies.

    They are spawned, since the fork of a process with threads, such as PyTorch's, may hang. They
    are kept for the next stage, since starting them takes seconds.
    """

    deaths: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(self, size: int, threads: int = 1):
        """Starts no process yet; ``threads`` are torch's, in each process."""
        protect_children()
        self.size, self._threads = size, threads

    def submit(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Submits work to a process, which is started if need be."""
        try:
            return self._processes().submit(work, *arguments)
        except BrokenProcessPool:  # a process died since the last result was taken
            return self._processes().submit(work, *arguments)

    def _processes(self) -> "ProcessPoolExecutor":
        # Torch also reads the number of its threads from these when it is imported.
        threads = {f"{library}_NUM_THREADS": str(self._threads) for library in ("OMP", "MKL")}
        from joblib.externals.loky import get_reusable_executor

        return get_reusable_executor(
            self.size, initializer=_begin_process, initargs=(os.getpid(),), env=threads
        )

    def close(self, at_once: bool = False) -> None:
        """Keeps idle processes for the next stage; ``at_once`` kills all of them."""
        if at_once:
            self._processes().shutdown(kill_workers=True)


def _begin_process(parent: int) -> None:
    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL)
        os._exit(1)  # soon after the parent was killed

    gc.disable()  # until the stage is loaded: nothing of what is imported is garbage
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of a terminal; the main process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def with_notes(work: Callable[..., Result], *arguments: object) -> tuple[Result, list[str]]:
    """Does work in a worker; returns its result, and what the process noted so far."""
    return work(*arguments), [*notes]


def spread(
    pool: Pool,
    work: Callable[[ItemType], Result],
    items: Iterable[ItemType],
    max_pending: int | None = None,
) -> Iterator[tuple[ItemType, Result | ImageError]]:
    """Processes items by workers; others take over the items of a worker that dies.

    The item that killed a worker is unknown. All items in progress are then tried one by one, so
    that none is blamed for another. An item is given up when its workers die even so. Errors of
    ``work``, which can be pickled, are raised here.

    Items are taken at most ``max_pending`` ahead of the results, by default two per worker. They
    are yielded with their results in the order of completion, or with an error if workers died.
    Raises a UserError if workers die whatever they process, or their scheduler has ended.
    """
    max_pending, noting = max_pending or 2 * pool.size, partial(with_notes, work)
    # Items, each with the number of workers that died while they processed it alone.
    waiting = ((item, 0) for item in items)
    suspects: deque[tuple[ItemType, int]] = deque()
    given_up, is_any_done = 0, False
    under_way: dict[Future, tuple[ItemType, int]] = {}
    try:
        while True:
            is_alone = bool(suspects) and not under_way
            if is_alone:
                chosen = [suspects.popleft()]
            else:
                chosen = islice(waiting, 0 if suspects else max_pending - len(under_way))
            for item, deaths in chosen:
                under_way[pool.submit(noting, item)] = item, deaths
            if not under_way:
                return
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                item, deaths = under_way.pop(future)
                try:
                    (result, noted), is_any_done = future.result(), True
                except pool.deaths:
                    deaths += is_alone
                    if deaths < MAX_DEATHS:
                        suspects.append((item, deaths))
                        continue
                    result, given_up = ImageError(DIED), given_up + 1
                    if given_up == _MAX_GIVEN_UP and not is_any_done:
                        raise UserError(
                            "processes die whatever image they are given, perhaps because memory"
                            " runs out: give fewer runtime.workers, or images.longest_side=1000"
                        ) from None
                else:
                    note(*noted)
                yield item, result
    except CancelledError as error:
        raise UserError(
            "the scheduler of the workers has ended: start it and its workers, and run the same"
            " command again, finished results are kept"
        ) from error
    finally:
        for future in under_way:
            future.cancel()


def in_processes(
    items: Iterable[ItemType], work: Callable[[ItemType], Result], workers: int
) -> Iterator[tuple[ItemType, Result | ImageError]]:
    """Processes items as :func:`spread` does, in processes of this machine.

    This serves pydensecrf, which holds Python's global lock, so that threads would wait for each
    other and for the network. Items are taken just enough ahead to keep the processes busy, since
    the probabilities of a photograph take many megabytes. With one worker, this process computes.
    """
    if workers <= 1:
        for item in items:
            yield item, work(item)
        return
    pool = ProcessPool(workers)
    try:
        yield from spread(pool, work, items, max_pending=workers + 1)
    except BaseException:
        pool.close(at_once=True)
        raise
