"""Images on their way to a model: decoded ahead of it, and batched by their shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], workers: int, most: int
) -> Iterator[tuple[Item, Result]]:
    """Does work in threads ahead of whoever takes the results, in order.

    Args:
        items: what there is to do.
        work: what is done to each; whatever it raises is raised where its result is taken.
        workers: threads.
        most: results that are kept ahead, which bounds the memory.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                if len(pending) >= most:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def by_shape(
    items: Iterable[Item],
    shape_of: Callable[[Item], Hashable],
    size_of: Callable[[Hashable], int],
    most: int,
) -> Iterator[list[Item]]:
    """Collects items of one shape until they fill a batch.

    Args:
        items: what is to be batched.
        shape_of: returns an item's shape.
        size_of: returns how many items of a shape fill a batch.
        most: items that may wait; when there are more, the longest waiting leaves with those of its
            shape, however few.

    Yields:
        Items of one shape, in the order in which they came.
    """
    waiting: dict[Hashable, list[Item]] = {}  # in the order of their oldest items
    for item in items:
        shape = shape_of(item)
        group = waiting.setdefault(shape, [])
        group.append(item)
        if len(group) >= size_of(shape):
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) > most:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
