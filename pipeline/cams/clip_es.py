"""The whole of CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention affinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cams.affinity import MeanAttention, refine_cams
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import Name, SharedPass, batch_by_grid, run_shared_pass


@dataclass(frozen=True)
class CamSettings:
    """The method's constants (the table in docs/algorithms.md, section 3) and batch size.

    Attributes:
        affinity_blocks: first and last block of Ā, see
            :func:`pipeline.clip.blocks.block_window` (5 to 11 of 12 are −7 to −1).
        box_threshold: φ.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.
        batch_size: images in a batch of the shared pass.
        max_waiting: images that may wait for others of their patch grid.
    """

    affinity_blocks: Sequence[int] = (-7, -1)
    box_threshold: float = 0.4
    open_border: bool = True
    batch_size: int = 1
    max_waiting: int = 32


class ClipEs:
    """Computes the class activation maps (CAMs) of images with a frozen CLIP."""

    def __init__(
        self,
        encoder: ClipEncoder,
        class_text: torch.Tensor,
        background_text: torch.Tensor,
        settings: CamSettings,
    ):
        """Stores the parts of the method.

        Args:
            encoder: the image tower.
            class_text: n×E embeddings of the classes' CAM names, on the encoder's device.
            background_text: M×E embeddings of the backgrounds.
            settings: the method's constants.

        Raises:
            UserError: the encoder does not have the ``affinity_blocks``.
        """
        self.encoder = encoder
        self.class_text = class_text
        self.background_text = background_text
        self.settings = settings
        self.blocks = block_window("cams.affinity_blocks", settings.affinity_blocks, encoder.depth)

    def __call__(self, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
        """Returns the refined CAM of every tag, K×h×w float32 in [0, 1] on the patch grid.

        Args:
            image: H×W×3 uint8, RGB.
            tags: K class indices.
        """
        ((_, cams),) = self.stream([((), image, tags)])
        return cams

    @torch.no_grad()
    def stream(
        self, images: Iterable[tuple[Name, np.ndarray, Sequence[int]]]
    ) -> Iterator[tuple[Name, np.ndarray]]:
        """Computes the CAMs of images as they arrive, in batches of one patch grid.

        Args:
            images: names, images, H×W×3 uint8, RGB, and their tags.

        Yields:
            Names and refined CAMs, as in :meth:`__call__`; images of one patch grid keep their
            order.
        """
        encoder, settings = self.encoder, self.settings
        for batch in batch_by_grid(encoder, images, settings.batch_size, settings.max_waiting):
            pictures = [image for _, image, _ in batch]
            recorder = self.attention_recorder()
            _, inputs = run_shared_pass(encoder, pictures, settings.batch_size, recorder)
            grid, attention = encoder.patch_grid(pictures[0]), recorder.result()
            for row, (name, _, tags) in enumerate(batch):
                yield name, self.cams(SharedPass.from_batch(grid, inputs, attention, row), tags)

    def attention_recorder(self) -> MeanAttention:
        """Returns a recorder of one batch's Ā for :meth:`cams`."""
        return MeanAttention(self.blocks)

    def cams(self, shared_pass: SharedPass, tags: Sequence[int]) -> np.ndarray:
        """Returns the refined CAM of every tag from the shared pass over an image, K×h×w float32.

        Args:
            shared_pass: recorded with :meth:`attention_recorder`.
            tags: K class indices.
        """
        if not len(tags):
            return np.zeros((0, *shared_pass.grid), np.float32)
        text = torch.cat([self.class_text[list(tags)], self.background_text])
        refined = refine_cams(
            softmax_gradcam(self.encoder, shared_pass.last_block_input, text, len(tags)),
            shared_pass.attention,
            shared_pass.grid,
            threshold=self.settings.box_threshold,
            open_border=self.settings.open_border,
        )
        return refined.reshape(-1, *shared_pass.grid).cpu().numpy()
