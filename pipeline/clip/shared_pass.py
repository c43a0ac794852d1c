"""The pass over an image that tags and maps share: blocks 1 to L−1, and who listens to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from pipeline.clip.encoder import BeforeLast, ClipEncoder, OnAttention
from pipeline.engine.prefetch import by_shape

Name = TypeVar("Name")
"""Whatever tells a caller's images apart."""

Named = TypeVar("Named", bound=tuple)
"""A name, an image, and whatever goes with it."""


class Listener(Protocol):
    """Hears the attention of one batch, block by block, and says what came of it."""

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32."""

    def result(self) -> torch.Tensor:
        """Returns B×N×N float32."""


@dataclass(frozen=True)
class Seen:
    """What the backbone made of one image.

    Attributes:
        grid: h, w.
        before: what enters block L, of a batch of one.
        attention: Ā, N×N float32, of the blocks that class activation maps ask for.
    """

    grid: tuple[int, int]
    before: BeforeLast
    attention: torch.Tensor

    @classmethod
    def of(
        cls, grid: tuple[int, int], before: BeforeLast, attention: torch.Tensor, row: int
    ) -> Seen:
        """Takes an image's row out of a batch, so that waiting for it does not keep the others.

        Args:
            grid: h, w of all images of the batch.
            before: what enters block L.
            attention: B×N×N.
            row: which image it is.
        """
        own = attention[row] if len(attention) == 1 else attention[row].clone()
        return cls(grid, before.row(row), own)


def by_grid(
    encoder: ClipEncoder, images: Iterable[Named], batch_size: int, most_waiting: int
) -> Iterator[list[Named]]:
    """Collects images of one patch grid until they fill a batch.

    Args:
        encoder: the image tower.
        images: names, images, H×W×3 uint8, and whatever goes with them.
        batch_size: images in a batch; of large ones it holds fewer.
        most_waiting: images that may wait for others of their grid.

    Yields:
        Images of one grid, in the order in which they came.
    """
    return by_shape(
        images,
        lambda image: encoder.grid_of(image[1]),
        lambda grid: encoder.batch_of(grid, batch_size),
        most_waiting,
    )


def look(
    encoder: ClipEncoder,
    images: Sequence[np.ndarray],
    batch_size: int,
    *listeners: OnAttention,
    squeeze: bool = False,
) -> tuple[torch.Tensor, BeforeLast]:
    """Runs the backbone over images of one grid.

    The batch is filled up to its size, so that what becomes of an image does not depend on its
    company.

    Args:
        encoder: the image tower.
        images: a batch of :func:`by_grid`, each H×W×3 uint8.
        batch_size: images in a batch; of large ones it holds fewer.
        listeners: told the blocks' attentions.
        squeeze: whether images are squeezed to the native size instead.

    Returns:
        The batch's pixels, B×3×(P·h)×(P·w), and what enters block L; the rows after the images are
        filling.
    """
    prepared = [encoder.prepare(image, squeeze=squeeze) for image in images]
    size = encoder.batch_of(encoder.grid_of(images[0]), batch_size)
    prepared += prepared[-1:] * (size - len(prepared))
    pixels = torch.stack(prepared).to(encoder.device)
    return pixels, encoder.backbone(pixels, *listeners)
