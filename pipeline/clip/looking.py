"""The pass over an image that tags and maps share: blocks 1 to L−1, and who listens to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.clip.encoder import ClipEncoder, OnAttention


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
        tokens: those that enter block L, 1×(1+N)×D.
        attention: Ā, N×N float32, of the blocks that class activation maps ask for.
    """

    grid: tuple[int, int]
    tokens: torch.Tensor
    attention: torch.Tensor


def look(
    encoder: ClipEncoder,
    images: Sequence[np.ndarray],
    batch_size: int,
    *listeners: OnAttention,
    squeeze: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the backbone over images of one grid.

    The batch is filled up to its size, so that what becomes of an image does not depend on its
    company.

    Args:
        encoder: the image tower.
        images: at most ``batch_size``, each H×W×3 uint8, all of one patch grid.
        batch_size: images in the batch.
        listeners: told the blocks' attentions.
        squeeze: whether images are squeezed to the native size instead.

    Returns:
        The batch's pixels, B×3×(P·h)×(P·w), and the tokens that enter block L, B×(1+N)×D; the rows
        after the images are filling.
    """
    prepared = [encoder.prepare(image, squeeze=squeeze) for image in images]
    prepared += prepared[-1:] * (batch_size - len(prepared))
    pixels = torch.stack(prepared).to(encoder.device)
    return pixels, encoder.backbone(pixels, *listeners)
