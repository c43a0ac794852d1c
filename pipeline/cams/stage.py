"""The stage ``cams``: for every tag of an image, where it is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.affinity import MeanAttention, refine_cams
from pipeline.cams.gradcam import softmax_gradcam
from pipeline.clip.blocks import block_window
from pipeline.clip.encoder import ClipEncoder
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError
from pipeline.fingerprints import fingerprint, fingerprint_file, join_keys
from pipeline.images import to_patch_grid
from pipeline.store import StageFolder
from pipeline.sweep import one_by_one, sweep

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""


@dataclass(frozen=True)
class CamSettings:
    """The method's constants (the table in ALGORITHMS §3).

    Attributes:
        affinity_blocks: first and last block of Ā, see
            :func:`pipeline.clip.blocks.block_window` (5 to 11 of 12 are −7 to −1).
        box_threshold: φ.
        open_border: quirk, see :func:`pipeline.boxes.bounding_box`.
    """

    affinity_blocks: tuple[int, int] = (-7, -1)
    box_threshold: float = 0.4
    open_border: bool = True


@dataclass(frozen=True)
class Cams:
    """The maps of one image.

    Attributes:
        keys: K int64 class indices.
        cams: K×h×w float16 in [0, 1], on the patch grid.
        size: height and width of the image in pixels.
    """

    keys: np.ndarray
    cams: np.ndarray
    size: tuple[int, int]

    def resized(self, height: int, width: int) -> np.ndarray:
        """Returns the maps at an image's size, K×height×width float32 (bilinear)."""
        if not len(self.keys):
            return np.zeros((0, height, width), np.float32)
        maps = torch.from_numpy(self.cams.astype(np.float32)).unsqueeze(0)
        return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0].numpy()


class ClipEs:
    """Computes the maps of images with a frozen CLIP (CLIP-ES)."""

    def __init__(
        self,
        encoder: ClipEncoder,
        class_text: torch.Tensor,
        background_text: torch.Tensor,
        settings: CamSettings,
    ):
        """Wires the method's parts.

        Args:
            encoder: the image tower.
            class_text: n×E embeddings of the classes' CAM names, on the encoder's device.
            background_text: M×E embeddings of the backgrounds.
            settings: the method's constants.

        Raises:
            UserError: ``affinity_blocks`` asks for blocks that the encoder does not have.
        """
        self.encoder = encoder
        self.class_text = class_text
        self.background_text = background_text
        self.settings = settings
        self.blocks = block_window("cams.affinity_blocks", settings.affinity_blocks, encoder.depth)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, tags: Sequence[int]) -> np.ndarray:
        """Returns the refined map of every tag, K×h×w float32 in [0, 1] on the patch grid.

        Args:
            image: H×W×3 uint8, RGB.
            tags: K class indices.
        """
        encoder, settings = self.encoder, self.settings
        pixels = to_patch_grid(image, encoder.patch_size, encoder.normalisation)
        pixels = pixels.to(encoder.device).unsqueeze(0)
        grid = tuple(side // encoder.patch_size for side in pixels.shape[-2:])
        if not len(tags):
            return np.zeros((0, *grid), np.float32)
        attention = MeanAttention(self.blocks)
        tokens = encoder.backbone(pixels, attention)
        text = torch.cat([self.class_text[list(tags)], self.background_text])
        cams = softmax_gradcam(encoder, tokens, text, len(tags))
        refined = refine_cams(
            cams,
            attention.result()[0],
            grid,
            threshold=settings.box_threshold,
            open_border=settings.open_border,
        )
        return refined.reshape(-1, *grid).cpu().numpy()


def input_key(sample: Sample, tags: Sequence[int]) -> str:
    """Returns the fingerprint of what an image's maps are made from."""
    return join_keys(fingerprint_file(sample.image), fingerprint(tags))


def run(
    samples: Sequence[Sample],
    folder: StageFolder,
    *,
    method: Callable[[], ClipEs],
    read: ImageReader,
    tags_of: Callable[[Sample], tuple[int, ...]],
) -> int:
    """Computes and stores the maps of every image.

    Args:
        samples: the images of a split that have tags.
        folder: the stage's folder, locked.
        method: builds the method; called only when there is something to compute.
        read: decodes the images.
        tags_of: returns the tags of a sample.

    Returns:
        The number of images that were computed.
    """

    def compute(todo: list[Sample]) -> Iterator[tuple[Sample, Cams | ImageError]]:
        clip_es = method()

        def maps(sample: Sample, image: np.ndarray, size: tuple[int, int]) -> Cams:
            tags = tags_of(sample)
            return Cams(np.array(tags, np.int64), clip_es(image, tags), size)

        return one_by_one(todo, read, maps)

    computed = sweep(
        samples,
        folder,
        input_key=lambda s: input_key(s, tags_of(s)),
        compute=compute,
        save=lambda s, key, cams: folder.write(s.id, key, {f"{s.id}.npz": encode_cams(cams)}),
    )
    folder.finish([s.id for s in samples])
    return computed


def encode_cams(cams: Cams) -> bytes:
    """Returns an image's maps as a compressed ``.npz`` file."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        keys=cams.keys,
        cams=cams.cams.astype(np.float16),
        size=np.array(cams.size, np.int64),
    )
    return buffer.getvalue()


def read_cams(path: Path) -> Cams:
    """Reads the maps of an image from its file.

    Raises:
        ImageError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            height, width = arrays["size"]
            return Cams(arrays["keys"], arrays["cams"], (int(height), int(width)))
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise ImageError("its maps are damaged: run stage=cams again") from error
