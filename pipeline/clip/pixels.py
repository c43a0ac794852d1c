"""CLIP's input: the resize to whole patches, and the normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torchvision.transforms.functional import normalize


@dataclass(frozen=True)
class Normalisation:
    """How a CLIP's training normalised pixels.

    Attributes:
        mean: of red, green and blue in [0, 1].
        std: standard deviations of red, green and blue.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OPENAI_NORMALISATION = Normalisation(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def patch_grid(
    height: int, width: int, patch_size: int, max_patches: int | None = None
) -> tuple[int, int]:
    """Returns the rows and columns of patches that cover an image (docs/algorithms.md, section 1).

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        patch_size: side of a patch in pixels.
        max_patches: an image that needs more is shrunk to at most as many; the memory of attention
            grows with their square.
    """
    rows, columns = math.ceil(height / patch_size), math.ceil(width / patch_size)
    if max_patches is None or rows * columns <= max_patches:
        return rows, columns
    factor = math.sqrt(max_patches / (rows * columns))
    rows = max(1, min(int(rows * factor), max_patches))
    return rows, max(1, min(int(columns * factor), max_patches // rows))


def to_pixels(
    image: np.ndarray, height: int, width: int, normalisation: Normalisation = OPENAI_NORMALISATION
) -> torch.Tensor:
    """Resizes an image (Pillow's bicubic filter), scales it to [0, 1] and normalises it.

    Args:
        image: H×W×3 uint8, RGB.
        height: of the result, 3×height×width float32.
        width: of the result.
        normalisation: of the CLIP that reads the result.
    """
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return normalize(pixels, normalisation.mean, normalisation.std)
