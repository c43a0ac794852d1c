"""Which of a transformer's blocks a configuration means."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UserError


def block_window(key: str, window: Sequence[int], depth: int) -> range:
    """Returns the blocks from a first to a last one, of a transformer of any depth.

    Args:
        key: the configuration key that the window comes from, for messages.
        window: first and last block. A number above 0 counts from 1, the first block; 0 and below
            are offsets from the last block, which is 0. What falls before block 1, as it does when
            the offsets of a deep model meet a shallow one, is taken as block 1.
        depth: L, the number of blocks.

    Returns:
        Block numbers, counted from 1, of which there is at least one.

    Raises:
        UserError: no two integers, a block beyond the last one, or none at all.
    """
    is_list = isinstance(window, list | tuple)
    is_pair = is_list and len(window) == 2
    given = f"{key}={list(window) if is_list else window}".replace(" ", "")
    if not is_pair or any(type(block) is not int for block in window):
        raise UserError(f"{given} is no window of blocks: give its first and last, {key}=[-3,-1]")
    first, last = (max(block if block > 0 else depth + block, 1) for block in window)
    if max(first, last) > depth:
        raise UserError(
            f"{given} asks for block {max(first, last)}, but this CLIP has {depth}: give blocks"
            f" from 1 to {depth}, or offsets from the last one, which is 0"
        )
    if first > last:
        raise UserError(
            f"{given} holds no block of this CLIP's {depth}, since block {first} comes after block"
            f" {last}: give the first block and then the last"
        )
    return range(first, last + 1)
