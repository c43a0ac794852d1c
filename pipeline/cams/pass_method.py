"""CAM methods that need one pass of CLIP's backbone, which tags can share."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch

from pipeline.cams.affinity import refine_cams
from pipeline.cams.method import CamMethod
from pipeline.clip.device import Batches, to_host
from pipeline.clip.dimensions import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.second import FrozenSecond
from pipeline.clip.shared_pass import (
    CamHook,
    MeanAttention,
    SharedPass,
    batch_by_grid,
    prepare_batch,
)
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.dense.settings import PassCamOptions
from pipeline.errors import ImageError


@dataclass(eq=False)
class PassCams(CamMethod):
    """Computes the class activation maps (CAMs) of images with a frozen CLIP.

    Attributes:
        encoder: the image tower; it must have the ``affinity_blocks`` of the options.
        class_text: n×E embeddings of the classes' CAM names, on the encoder's device.
        background_text: M×E embeddings of the backgrounds.
        quirks: those that the method declares, as attributes; of all methods ``open_border``, see
            :func:`pipeline.clip.compute.boxes.bounding_box`.
        seconds: the second backbones that the options choose, by their names there.
    """

    encoder: ClipEncoder
    class_text: torch.Tensor
    background_text: torch.Tensor
    options: PassCamOptions
    batches: Batches
    quirks: SimpleNamespace
    seconds: Mapping[str, FrozenSecond] = field(default_factory=dict)

    def __post_init__(self):
        window, depth = self.options.affinity_blocks, self.encoder.depth
        self.blocks = block_window("cams.affinity_blocks", window, depth)

    @classmethod
    def build(cls, options: PassCamOptions, resources: Resources) -> Self:
        """Builds the method with the text of the options."""
        clip, more = resources.clip, (resources.quirks, resources.seconds)
        return cls(clip.encoder, *text_of(options, resources), options, clip.batches, *more)

    def method_hooks(self) -> Sequence[CamHook]:
        """Returns the hooks that :meth:`activation_maps` requires, new for each pass."""
        return ()

    @abstractmethod
    def activation_maps(
        self, shared_pass: SharedPass, text: torch.Tensor, num_tags: int
    ) -> torch.Tensor:
        """Returns the CAM of every tag before the affinity, K×N float32 in [0, 1].

        Args:
            shared_pass: of one image, with the results of :meth:`method_hooks`.
            text: C×E embeddings of the K tags and then of their competitors, each of length 1; see
                :meth:`names_for`.
            num_tags: K.
        """

    def hooks(self) -> list[CamHook]:
        """Returns what has to be called during a pass, new for each."""
        mean = [self.attention_hook()] if self.options.affinity else []
        return [*self.method_hooks(), *mean]

    def attention_hook(self) -> MeanAttention:
        """Returns what computes Ā, new for each pass."""
        return MeanAttention(self.blocks)

    def names_for(self, tags: Sequence[int]) -> torch.Tensor:
        """Returns the embeddings of K tags, and then of what competes with them: C×E."""
        return torch.cat([self.class_text[list(tags)], self.background_text])

    @torch.no_grad()
    def stream(
        self, images: Iterable[tuple[Any, np.ndarray, Sequence[int]]]
    ) -> Iterator[tuple[Any, np.ndarray | ImageError]]:
        """Computes the CAMs of images, in their order, in batches of one patch grid.

        CAMs are K×h×w float32 in [0, 1] on the patch grid.
        """
        encoder, batches = self.encoder, self.batches
        for batch in batch_by_grid(encoder, images, batches.images, batches.waiting):
            pixels = prepare_batch(encoder, [image for _, image, _ in batch], batches.images)
            batch_pass = SharedPass.over(encoder, pixels, cam_hooks=self.hooks())
            for row, (name, image, tags) in enumerate(batch):
                try:
                    shared_pass = batch_pass.copy_image(row)
                    if len(tags):
                        shared_pass = self.with_picture(shared_pass, name, image)
                    yield name, self.cams_of_pass(shared_pass, tags)
                except ImageError as error:
                    yield name, error

    def with_picture(self, shared_pass: SharedPass, name: Any, image: np.ndarray) -> SharedPass:  # noqa: ANN401
        """Returns the pass of an image with what a method reads of it besides its pixels.

        The ``name`` is what :meth:`stream` was given: in a stage the image's item, which knows its
        file of regions, its full size and its fingerprint.
        """
        return shared_pass

    @torch.no_grad()
    def cams_of_pass(self, shared_pass: SharedPass, tags: Sequence[int]) -> np.ndarray:
        """Returns the CAM of each of K tags, K×h×w float32 in [0, 1] on the patch grid.

        The shared pass is of one image, with the results of :meth:`hooks`. Raises an ImageError if
        the method cannot be applied to it.
        """
        if not len(tags):
            return np.zeros((0, *shared_pass.grid), np.float32)
        cams = self.activation_maps(shared_pass, self.names_for(tags), len(tags))
        if self.options.affinity:
            cams = refine_cams(
                cams,
                shared_pass.for_cams[-1][0],
                shared_pass.grid,
                threshold=self.options.box_threshold,
                open_border=self.quirks.open_border,
            )
        return to_host(cams.reshape(-1, *shared_pass.grid))[0]


def text_of(options: PassCamOptions, resources: Resources) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the embeddings of the classes, n×E, and of the backgrounds, M×E."""
    vocabulary, count = resources.vocabulary, resources.num_classes
    backgrounds = competitors_of(options, vocabulary)
    clip = resources.clip
    text = clip.embed(vocabulary.cam_names, backgrounds, options.templates)
    text = clip.encoder.text_for_patches(text)
    return text[:count], text[count:]


def competitors_of(options: PassCamOptions, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Returns the backgrounds that compete with the tags: those chosen, or the data set's.

    Without any, the only tag of an image would have a constant score and an empty CAM, so the word
    "background" competes.
    """
    given = vocabulary.backgrounds if options.backgrounds is None else options.backgrounds
    return tuple(given) or ("background",)
