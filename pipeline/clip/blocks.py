"""Windows of transformer blocks, for a transformer of any depth."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import UserError


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
        UserError: the window is not two integers, exceeds the last block or is empty.
    """
    is_list = isinstance(window, list | tuple)
    is_pair = is_list and len(window) == 2
    given = f"{key}={list(window) if is_list else window}".replace(" ", "")
    if not is_pair or any(type(block) is not int for block in window):
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
