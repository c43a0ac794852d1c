"""The whole of CLIP-ES's CAMs: softmax Grad-CAM, refined by class-aware attention affinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.cams.affinity import MeanAttention, refine_cams
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.cams.method import CamOptions
from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import Name, SharedPass, batch_by_grid, run_shared_pass
from pipeline.clip.text import TEMPLATES
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.registry import register
from pipeline.engine.settings import setting


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
                yield (
                    name,
                    self.cams_of_pass(SharedPass.from_batch(grid, inputs, attention, row), tags),
                )

    def attention_recorder(self) -> MeanAttention:
        """Returns a recorder of one batch's Ā for :meth:`cams`."""
        return MeanAttention(self.blocks)

    def cams_of_pass(self, shared_pass: SharedPass, tags: Sequence[int]) -> np.ndarray:
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


@dataclass
class ClipEsOptions(CamOptions):
    """``cams=clip_es`` and its presets, the constants of CLIP-ES (CVPR 2023).

    Attributes:
        templates: the set of templates; "clip_es" is "a clean origami {}.".
        affinity_blocks: first and last block of Ā. A number above 0 counts from 1; 0 and below are
            offsets from the last block, which is 0.
        box_threshold: the share of a CAM's peak that opens a box.
        backgrounds: competitors of the tags; none takes the backgrounds of the data set.
    """

    templates: str = setting("clip_es", choices=TEMPLATES)
    affinity_blocks: list[int] = setting([-7, -1])
    box_threshold: float = setting(0.4, at_least=0, at_most=1)
    backgrounds: list[str] | None = None


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
)
def build_clip_es(options: ClipEsOptions, resources: Resources) -> ClipEs:
    """Builds CLIP-ES."""
    clip, vocabulary = resources.clip, resources.vocabulary
    settings = CamSettings(
        affinity_blocks=options.affinity_blocks,
        box_threshold=options.box_threshold,
        batch_size=clip.batches.images,
        max_waiting=clip.batches.waiting,
        **vars(resources.quirks),
    )
    backgrounds = competitors_of(options, vocabulary)
    text = clip.embed(vocabulary.cam_names, backgrounds, options.templates)
    count = resources.num_classes
    return ClipEs(clip.encoder, text[:count], text[count:], settings)
