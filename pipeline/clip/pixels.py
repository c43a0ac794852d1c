"""CLIP's input: the resize to whole patches, and the normalisation."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import normalize

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Normalisation


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
