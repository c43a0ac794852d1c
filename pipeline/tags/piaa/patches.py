"""Patch features of images by a dense method: the input of PIAA.

Wang et al., PIAA, ICML 2026, arXiv 2605.25821. Its authors run SC-CLIP so that the features of an
image depend on the other images of its batch: the quirk ``piaa_batch`` of docs/other-methods.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, center_crop, resize

from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.shared_pass import batch_by_grid, prepare_batch
from pipeline.configuration.registry import find_method
from pipeline.dense.method import DenseMethod
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.dense.sc_clip.method import ScClip
from pipeline.errors import ImageError
from pipeline.tags.piaa import PiaaOptions, batch_of


class Patches(NamedTuple):
    """The features of an image's patches.

    Attributes:
        features: N×E float32, of length 1.
        whole_image: E float32, of the unmodified CLIP, of length 1.
        pixels: 3×(P·h)×(P·w) float32, normalised.
    """

    features: torch.Tensor
    whole_image: torch.Tensor
    pixels: torch.Tensor


@dataclass(eq=False)
class PatchEncoder:
    """Gives the features of images' patches.

    Attributes:
        crop: see :class:`~pipeline.tags.piaa.PiaaOptions`.
        batch_dependent: whether each result depends on its batch; all images are then one batch.
    """

    encoder: ClipEncoder
    method: DenseMethod
    crop: bool
    batches: Batches
    batch_dependent: bool = False

    @torch.no_grad()
    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]]
    ) -> Iterator[tuple[Any, Patches | ImageError]]:
        """Yields a name and what CLIP sees, or why it cannot, for each name and image.

        Each batch is padded to its full size, so that an image does not depend on the others,
        unless each result depends on its batch.
        """
        encoder, batches = self.encoder, self.batches
        if self.crop:
            images = ((name, centre(image, encoder.native_size)) for name, image in images)
        if self.batch_dependent:
            collected = [[*images]]
        else:
            collected = batch_by_grid(encoder, images, batches.images, batches.waiting)
        for batch in collected:
            names, pictures = zip(*batch)
            size = len(batch) if self.batch_dependent else batches.images
            shared_pass = self.method.run_pass(encoder, prepare_batch(encoder, pictures, size))
            try:
                features = self.method.patch_features(encoder, shared_pass)
            except ImageError as error:
                yield from ((name, error) for name in names)
                continue
            features = F.normalize(features, dim=-1)
            whole = encoder.whole_image_features(shared_pass.last_block_input)
            for row, name in enumerate(names):
                yield name, Patches(features[row], whole[row], shared_pass.pixels[row])


def build_patches(options: PiaaOptions, resources: Resources) -> tuple[PatchEncoder, torch.Tensor]:
    """Builds what gives features of patches, and the C×E embeddings that they are compared with."""
    clip, vocabulary = resources.clip, resources.vocabulary
    backgrounds = vocabulary.backgrounds if options.with_backgrounds else ()
    text = clip.embed(vocabulary.tag_names, backgrounds, options.templates)
    batch_dependent = batch_of(options, resources.quirks) > 0
    if batch_dependent:
        method = BatchedScClip(ScClipSettings())
    else:
        method = find_method("dense", options.encoder).settings().dense_method()
    return PatchEncoder(clip.encoder, method, options.crop, clip.batches, batch_dependent), text


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image's shorter side (bicubic) and cuts the centre square: side×side×3 uint8."""
    small = resize(Image.fromarray(image), side, InterpolationMode.BICUBIC)
    return np.array(center_crop(small, side))


class BatchedScClip(ScClip):
    """SC-CLIP whose result depends on the batch; with one image it is SC-CLIP itself."""

    def anomalous(self, patches: torch.Tensor) -> torch.Tensor:
        """Returns the outliers of the first image, for every image: B×N bool."""
        return super().anomalous(patches[:1]).expand(len(patches), -1)

    def attention_of(self, similarity: torch.Tensor, heads: int) -> torch.Tensor:
        """Returns the attention by similarities, most of which are of other images: B×H×N×N.

        Head h of image b has the similarities of image (b·H + h) mod B, of H heads and B images,
        and those count that are above the average of the batch. They are B×N×N.
        """
        size = len(similarity)
        attending = self.above(similarity, similarity.mean())
        whose = torch.arange(size * heads, device=similarity.device) % size
        return attending[whose].unflatten(0, (size, heads))
