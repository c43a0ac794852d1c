"""Whole stages against the plain version, and how their cost grows; everything in one run."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from pipeline.benchmark import plain
from pipeline.cams.clip_es import CamSettings, ClipEs
from pipeline.clip.boxes import Box
from pipeline.clip.encoder import ClipEncoder
from pipeline.tags.reidentification import Proposal, cut
from pipeline.tags.tagclip import TagClip, TagClipSettings

CROPS_OF_TWO_IMAGES = (4, 5)
"""How many classes CWR looks at again, image by image: 4.5 on average, as on VOC."""

_TAGS = 2


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        encoder: the image tower.
        text: C×E class embeddings; n classes, then backgrounds.
        class_count: n.
        batch_size: images that the backbone looks at together.
        crop_batch_size: crops that CWR classifies together.
        plain_encoder: the image tower of the plain version, in float32; none where that is not
            measured.
    """

    encoder: ClipEncoder
    text: torch.Tensor
    class_count: int
    batch_size: int
    crop_batch_size: int
    plain_encoder: ClipEncoder | None = None

    def with_names(self, count: int) -> Setup:
        """Returns the same with other numbers of classes and no backgrounds."""
        text = torch.randn(count, self.text.shape[1], device=self.text.device)
        return replace(self, text=F.normalize(text, dim=-1), class_count=count)


def load_photographs(count: int, width: int, height: int) -> list[np.ndarray]:
    """Returns the photographs that scikit-image comes with, in turn, resized: height×width×3."""
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    resized = [np.asarray(Image.fromarray(s).resize((width, height))) for s in sources]
    return [resized[k % len(resized)] for k in range(count)]


class _FixedCrops:
    """Proposes a fixed number of crops an image, since random weights propose any."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._images = 0

    def __call__(self, pixels: torch.Tensor, scores: torch.Tensor) -> list[Proposal]:
        encoder = self._setup.encoder
        count = CROPS_OF_TWO_IMAGES[self._images % 2]
        self._images += 1
        patch, side = encoder.patch_size, encoder.native_size
        rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
        inside = torch.ones(side // patch, side // patch, dtype=torch.bool, device=pixels.device)
        boxes: Iterator[Box] = ((0, 0, max(1, rows - k), max(1, columns - k)) for k in range(count))
        return [
            Proposal(k % self._setup.class_count, cut(pixels, box, patch, side), inside)
            for k, box in enumerate(boxes)
        ]


def build_tagger(setup: Setup, reidentify: bool = True) -> TagClip:
    """Builds TagCLIP with a fixed number of crops an image, or without CWR."""
    settings = TagClipSettings(
        reidentify=reidentify,
        batch_size=setup.batch_size,
        crop_batch_size=setup.crop_batch_size,
    )
    tagger = TagClip(setup.encoder, setup.text, setup.class_count, settings)
    tagger.propose = _FixedCrops(setup)
    return tagger


def build_mapper(setup: Setup) -> ClipEs:
    """Builds CLIP-ES."""
    count = setup.class_count
    settings = CamSettings(batch_size=setup.batch_size)
    return ClipEs(setup.encoder, setup.text[:count], setup.text[count:], settings)


def tags(setup: Setup, images: Sequence[np.ndarray]) -> None:
    """Tags images."""
    build_tagger(setup)(list(images))


def maps(setup: Setup, images: Sequence[np.ndarray]) -> None:
    """Computes the maps of two tags an image."""
    chosen = tuple(range(_TAGS))
    for _ in build_mapper(setup).stream((k, image, chosen) for k, image in enumerate(images)):
        pass


def tags_and_maps(setup: Setup, images: Sequence[np.ndarray]) -> None:
    """Tags images and computes the maps of two tags an image from the same pass."""
    mapper = build_mapper(setup)
    listen = mapper.attention_recorder
    for _, scored in build_tagger(setup).stream(enumerate(images), listen=listen):
        mapper.cams_of_pass(scored.shared_pass, tuple(range(_TAGS)))


def plain_tags(setup: Setup, images: Sequence[np.ndarray]) -> None:
    """Tags images as the plain version does."""
    tagger = build_tagger(setup)
    for image in images:
        plain.tag(
            setup.plain_encoder,
            setup.text,
            setup.class_count,
            image,
            tagger.propose,
            window=tagger.window,
            votes=tagger.settings.votes,
        )


def plain_maps(setup: Setup, images: Sequence[np.ndarray]) -> None:
    """Computes the maps of two tags an image as the plain version does."""
    mapper = build_mapper(setup)
    text = torch.cat([setup.text[:_TAGS], setup.text[setup.class_count :]])
    for image in images:
        plain.maps(
            setup.plain_encoder,
            text,
            image,
            _TAGS,
            blocks=mapper.blocks,
            threshold=mapper.settings.box_threshold,
        )


def seconds_an_image(
    work: Callable[[Setup, Sequence[np.ndarray]], None], setup: Setup, images: Sequence[np.ndarray]
) -> float:
    """Returns how long an image takes; the first two are done before, to warm up."""
    work(setup, images[:2])
    _wait(setup)
    began = time.perf_counter()
    work(setup, images)
    _wait(setup)
    return (time.perf_counter() - began) / len(images)


def _wait(setup: Setup) -> None:
    if setup.encoder.device.type == "cuda":
        torch.cuda.synchronize(setup.encoder.device)


def peak_memory() -> int:
    """Returns the most bytes that this process has had in memory so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
