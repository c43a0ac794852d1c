"""Batches of items that have one shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batch_by_shape(
    items: Iterable[Item],
    shape_of: Callable[[Item], Hashable],
    batch_size_for: Callable[[Hashable], int],
    max_waiting: int,
) -> Iterator[list[Item]]:
    """Collects items of one shape until they fill a batch.

    Args:
        items: what to batch.
        shape_of: returns an item's shape.
        batch_size_for: returns how many items of a shape fill a batch.
        max_waiting: items that may wait. Beyond it, the shape that has waited longest is yielded
            as an incomplete batch.

    Yields:
        Items of one shape, in their original order.
    """
    waiting: dict[Hashable, list[Item]] = {}  # in the order of their oldest items
    for item in items:
        shape = shape_of(item)
        group = waiting.setdefault(shape, [])
        group.append(item)
        if len(group) >= batch_size_for(shape):
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) > max_waiting:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
