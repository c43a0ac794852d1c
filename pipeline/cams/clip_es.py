"""The whole of CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention affinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.cams.affinity import refine_cams
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.cams.method import CamMethod, CamOptions
from pipeline.clip.block import block_window
from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import MeanAttention, SharedPass, batch_by_grid, run_shared_pass
from pipeline.clip.text import TEMPLATES
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.registry import register
from pipeline.engine.settings import setting


@dataclass
class ClipEsOptions(CamOptions):
    """``cams=clip_es`` and its presets, the constants of CLIP-ES (CVPR 2023).

    Attributes:
        templates: the set of templates; "clip_es" is "a clean origami {}.".
        affinity_blocks: first and last block of Ā. A number above 0 counts from 1; 0 and below are
            offsets from the last block, which is 0.
        box_threshold: φ, the share of a CAM's peak that opens a box.
        backgrounds: competitors of the tags; none takes the backgrounds of the data set.
    """

    templates: str = setting("clip_es", choices=TEMPLATES)
    affinity_blocks: list[int] = setting([-7, -1], at_least=-99, at_most=99, lengths=(2,))
    box_threshold: float = setting(0.4, at_least=0, at_most=1)
    backgrounds: list[str] | None = None


@dataclass(eq=False)
class ClipEs(CamMethod):
    """Computes the class activation maps (CAMs) of images with a frozen CLIP.

    Attributes:
        encoder: the image tower; it must have the ``affinity_blocks`` of the options.
        class_text: n×E embeddings of the classes' CAM names, on the encoder's device.
        background_text: M×E embeddings of the backgrounds.
        options: the method's constants.
        batches: the sizes of batches.
        open_border: quirk, see :func:`pipeline.clip.boxes.bounding_box`.
    """

    encoder: ClipEncoder
    class_text: torch.Tensor
    background_text: torch.Tensor
    options: ClipEsOptions
    batches: Batches
    open_border: bool = True

    def __post_init__(self):
        window, depth = self.options.affinity_blocks, self.encoder.depth
        self.blocks = block_window("cams.affinity_blocks", window, depth)

    @torch.no_grad()
    def stream(
        self, images: Iterable[tuple[Any, np.ndarray, Sequence[int]]]
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Computes the CAMs of images in batches of one patch grid, whose order is kept."""
        encoder, batches = self.encoder, self.batches
        for batch in batch_by_grid(encoder, images, batches.images, batches.waiting):
            pictures = [image for _, image, _ in batch]
            mean = MeanAttention(self.blocks)
            _, inputs = run_shared_pass(encoder, pictures, batches.images, mean)
            grid, attention = encoder.patch_grid(pictures[0]), mean.result()
            for row, (name, _, tags) in enumerate(batch):
                shared_pass = SharedPass.from_batch(grid, inputs, attention, row)
                yield name, self.cams_of_pass(shared_pass, tags)

    def cams_of_pass(self, shared_pass: SharedPass, tags: Sequence[int]) -> np.ndarray:
        """Returns the refined CAM of every tag from the shared pass over an image.

        Args:
            shared_pass: with the attention of ``blocks``.
            tags: K class indices.

        Returns:
            K×h×w float32 in [0, 1] on the patch grid.
        """
        if not len(tags):
            return np.zeros((0, *shared_pass.grid), np.float32)
        text = torch.cat([self.class_text[list(tags)], self.background_text])
        refined = refine_cams(
            softmax_gradcam(self.encoder, shared_pass.last_block_input, text, len(tags)),
            shared_pass.attention,
            shared_pass.grid,
            threshold=self.options.box_threshold,
            open_border=self.open_border,
        )
        return refined.reshape(-1, *shared_pass.grid).cpu().numpy()


def competitors_of(options: ClipEsOptions, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Returns the backgrounds that compete with the tags: those chosen, or the data set's.

    Without any, the only tag of an image would have a constant score and an empty CAM, so the word
    "background" competes.
    """
    given = vocabulary.backgrounds if options.backgrounds is None else options.backgrounds
    return tuple(given) or ("background",)


@register(
    "cams",
    "clip_es",
    ClipEsOptions,
    uses_clip=True,
    quirks=("open_border",),
    shares_pass=True,
    reads=("cam_names", "backgrounds"),
    source="Lin et al., CLIP-ES, CVPR 2023, arXiv 2212.09506",
    section="3. CAMs: CLIP-ES",
)
def build_clip_es(options: ClipEsOptions, resources: Resources) -> ClipEs:
    """Builds CLIP-ES."""
    clip, vocabulary, count = resources.clip, resources.vocabulary, resources.num_classes
    backgrounds = competitors_of(options, vocabulary)
    text = clip.embed(vocabulary.cam_names, backgrounds, options.templates)
    quirks = vars(resources.quirks)
    return ClipEs(clip.encoder, text[:count], text[count:], options, clip.batches, **quirks)
