"""The shared pass: blocks 1 to L−1 over an image, whose results serve both tags and CAMs."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clip.block import Block
from pipeline.clip.encoder import AttentionHook, BlockHook, BlockInput, ClipEncoder

Kind = TypeVar("Kind", bound=Hashable)
Named = TypeVar("Named", bound=tuple)
"""A tuple of a name, an image, H×W×3 uint8, and anything else."""


@dataclass(eq=False)
class MeanAttention:
    """An attention hook that averages the attention of some blocks without storing each."""

    blocks: range
    _sum: torch.Tensor | None = None

    def __call__(self, block: int, attention: torch.Tensor) -> None:
        """Takes in a block's attention between patches, B×N×N float32, averaged over heads."""
        if block in self.blocks:
            self._sum = attention.clone() if self._sum is None else self._sum.add_(attention)

    def result(self) -> torch.Tensor:
        """Returns Ā, B×N×N float32."""
        return self._sum / len(self.blocks)


@dataclass(eq=False)
class OwnValues(BlockHook):
    """Embeds patches as :meth:`ClipEncoder.value_features`, which are kept like other results."""

    encoder: ClipEncoder
    _found: torch.Tensor | None = None

    def __call__(self, number: int, block: Block, inputs: BlockInput) -> None:
        """Embeds the patches that enter block L."""
        if block is self.encoder.last_block:
            self._found = F.normalize(self.encoder.value_embeddings(inputs), dim=-1)

    def result(self) -> torch.Tensor:
        """Returns the embeddings, B×N×E float32, of length 1."""
        return self._found

    def __getstate__(self) -> None:
        """Returns nothing: results are kept under the encoder's name."""


CamHook = MeanAttention | BlockHook
"""What a CAM method has called during the pass; its result holds a row for each image."""


@dataclass(frozen=True)
class SharedPass:
    """The results of the shared pass over B images of one patch grid.

    Attributes:
        grid: h, w.
        pixels: B×3×(P·h)×(P·w) float32, normalised.
        enter_last_block: returns what enters block L, which not every method needs.
        for_cams: the results of the hooks of a CAM method, each B×….
        for_tags: those of the hooks of a tagger, each B×….
        pictures: what a dense method knows of each image besides; see
            :class:`pipeline.dense.picture.Picture`.
    """

    grid: tuple[int, int]
    pixels: torch.Tensor
    enter_last_block: Callable[[], BlockInput]
    for_cams: tuple[torch.Tensor, ...] = ()
    for_tags: tuple[torch.Tensor, ...] = ()
    pictures: Sequence[Any] = ()

    @classmethod
    def over(
        cls,
        encoder: ClipEncoder,
        pixels: torch.Tensor,
        *hooks: AttentionHook | BlockHook,
        cam_hooks: Sequence[CamHook] = (),
    ) -> "SharedPass":
        """Runs blocks 1 to L−1 over pixels, with the hooks of a tagger and of a CAM method."""
        enter, found = encoder.backbone_results(pixels, *hooks, *cam_hooks)
        rows, columns = (side // encoder.patch_size for side in pixels.shape[-2:])
        return cls((rows, columns), pixels, enter, found[len(hooks) :], found[: len(hooks)])

    @cached_property
    def last_block_input(self) -> BlockInput:
        """What enters block L."""
        return self.enter_last_block()

    def copy_image(self, row: int) -> "SharedPass":
        """Copies one image out of the batch for its CAMs, so that it does not keep the others."""
        if len(self.pixels) == 1:
            return replace(self, for_tags=())

        def pick(batch: torch.Tensor) -> torch.Tensor:
            return batch[row : row + 1].clone()

        inputs = BlockInput(*map(pick, self.last_block_input))
        found = tuple(map(pick, self.for_cams))
        return SharedPass(self.grid, pick(self.pixels), lambda: inputs, found)


def batch_alike(
    images: Iterable[Named],
    kind_of: Callable[[Named], Kind],
    size_of: Callable[[Kind], int],
    max_waiting: int,
) -> Iterator[list[Named]]:
    """Collects images of one kind, in their original order, until they fill a batch.

    Args:
        kind_of: returns what has to be equal in a batch.
        size_of: returns how many images of a kind fill a batch.
        max_waiting: images that may wait for others of their kind. Beyond it, the kind that has
            waited longest is yielded as an incomplete batch.
    """
    waiting: dict[Kind, list[Named]] = {}  # in the order of their oldest images
    for image in images:
        kind = kind_of(image)
        batch = waiting.setdefault(kind, [])
        batch.append(image)
        if len(batch) >= size_of(kind):
            yield waiting.pop(kind)
        elif sum(map(len, waiting.values())) > max_waiting:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def batch_by_grid(
    encoder: ClipEncoder, images: Iterable[Named], batch_size: int, max_waiting: int
) -> Iterator[list[Named]]:
    """Collects images of one patch grid, in their original order, until they fill a batch.

    For their sizes see :meth:`ClipEncoder.batch_size_for`, for ``max_waiting`` :func:`batch_alike`.
    """
    return batch_alike(
        images,
        lambda image: encoder.patch_grid(image[1]),
        lambda grid: encoder.batch_size_for(grid, batch_size),
        max_waiting,
    )


def prepare_batch(
    encoder: ClipEncoder, images: Sequence[np.ndarray], batch_size: int, squeeze: bool = False
) -> torch.Tensor:
    """Returns the pixels of a batch of :func:`batch_by_grid`, for :meth:`SharedPass.over`.

    They are B×3×H×W float32, normalised, on the encoder's device. The batch is padded to its full
    size, so that an image's result does not depend on the others: the rows after the images are
    copies of the last one. With ``squeeze``, images, H×W×3 uint8, are resized to the native square.
    """
    prepared = [encoder.prepare(image, squeeze=squeeze) for image in images]
    size = encoder.batch_size_for(encoder.patch_grid(images[0]), batch_size)
    prepared += prepared[-1:] * (size - len(prepared))
    return torch.stack(prepared).to(encoder.device)
