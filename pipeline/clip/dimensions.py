"""Dimensions, blocks, pretraining and grid of a CLIP, without weights, PyTorch or open_clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from pipeline.errors import UserError

SHIPPED = "demo"
"""The name of the weights that come with the package; they tell their architecture."""


class Normalisation(NamedTuple):
    """The normalisation of pixels in a CLIP's pretraining.

    Attributes:
        mean: of red, green and blue in [0, 1].
        std: standard deviations of red, green and blue.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OPENAI_NORMALISATION = Normalisation(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


@dataclass(frozen=True)
class Pretraining:
    """Settings that inference must share with the training of the weights.

    Attributes:
        normalisation: of the pixels.
        quick_gelu: whether the activation is QuickGELU, OpenAI's approximation of GELU.
    """

    normalisation: Normalisation = OPENAI_NORMALISATION
    quick_gelu: bool = True


class Dimensions(NamedTuple):
    """Dimensions that settings depend on: L, P, and the side of training images, in pixels."""

    depth: int
    patch_size: int
    native_size: int
    has_adaptor = False  # whether a language adaptor embeds tokens; a subclass says so
    head_blocks = 0  # the number of last blocks that are a head; a subclass says so


class DimensionsWithHead(Dimensions):
    """Those of a dino.txt, whose last two blocks are a head on the backbone."""

    head_blocks = 2


def block_at(offset: int, depth: int) -> int:
    """Returns the number of a block, counted from 1, from its offset from the last one.

    The offset of block L = ``depth`` is 0; one before the first block means the first block.
    """
    return max(depth + offset, 1)


def block_window(key: str, window: Sequence[int], depth: int) -> range:
    """Returns the blocks from a first to a last one: at least one, counted from 1.

    Args:
        key: the configuration key of the window, for messages.
        window: first and last block. A number above 0 counts from the first block, 1. A number of 0
            or below is an offset from the last block, 0; an offset that lies before the first
            block, as in a shallow model, means the first block.
        depth: L, the number of blocks.

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


def read_dimensions(path: Path) -> Dimensions:
    """Returns the dimensions that a safetensors file with OpenAI's names has, from its header."""
    with safe_open(path, "numpy") as file:
        names = [name for name in file.keys() if name.endswith(".ln_1.weight")]  # noqa: SIM118
        patch = file.get_slice("visual.conv1.weight").get_shape()[-1]
        tokens = file.get_slice("visual.positional_embedding").get_shape()[0]
    depth = sum(name.startswith("visual.") for name in names)
    return Dimensions(depth, patch, patch * math.isqrt(tokens - 1))


def patch_grid(
    height: int, width: int, patch_size: int, max_patches: int | None = None
) -> tuple[int, int]:
    """Returns the rows and columns of patches that cover an image (docs/method.md, section 1).

    All sizes are in pixels. An image that needs more than ``max_patches`` is shrunk to at most as
    many; the memory of attention grows with their square.
    """
    rows, columns = math.ceil(height / patch_size), math.ceil(width / patch_size)
    if max_patches is None or rows * columns <= max_patches:
        return rows, columns
    factor = math.sqrt(max_patches / (rows * columns))
    rows = max(1, min(int(rows * factor), max_patches))
    return rows, max(1, min(int(columns * factor), max_patches // rows))
