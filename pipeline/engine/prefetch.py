"""Prefetch: work done in threads before its results are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int, max_pending: int
) -> Iterator[tuple[Item, Result]]:
    """Processes items in threads before their results are needed; yields them in order.

    Args:
        items: what to process.
        work: processes one item; an error is raised where the result is taken.
        workers: number of threads.
        max_pending: results that may be computed or wait at a time, which bounds the memory.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                if len(pending) >= max_pending:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
