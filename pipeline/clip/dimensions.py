"""The dimensions of an image tower, and the blocks that settings name in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.errors import UserError


class Dimensions(NamedTuple):
    """What settings depend on: L, P, and the side of training images, in pixels."""

    depth: int
    patch_size: int
    native_size: int


def block_at(offset: int, depth: int) -> int:
    """Returns the number of a block, counted from 1, from its offset from the last one.

    The offset of block L = ``depth`` is 0; one before the first block means the first block.
    """
    return max(depth + offset, 1)


def block_window(key: str, window: Sequence[int], depth: int) -> range:
    """Returns the blocks from a first to a last one.

    Args:
        key: the configuration key of the window, for messages.
        window: first and last block. A number above 0 counts from the first block, 1. A number of 0
            or below is an offset from the last block, 0; an offset that lies before the first
            block, as in a shallow model, means the first block.
        depth: L, the number of blocks.

    Returns:
        Numbers of at least one block, counted from 1.

    Raises:
        UserError: the window does not have two ends, exceeds the last block or is empty.
    """
    given = f"{key}={list(window)}".replace(" ", "")
    if len(window) != 2:
        raise UserError(
            f"{given} is not a window of blocks: give its first and last block, {key}=[-3,-1]"
        )
    first, last = (max(block if block > 0 else depth + block, 1) for block in window)
    if max(first, last) > depth:
        raise UserError(
            f"{given} asks for block {max(first, last)}, but this CLIP has {depth}: give blocks"
            f" from 1 to {depth}, or offsets from the last one, which is 0"
        )
    if first > last:
        raise UserError(
            f"{given} is empty, since this CLIP has {depth} blocks and block {first} comes after"
            f" block {last}: give the first block and then the last"
        )
    return range(first, last + 1)
