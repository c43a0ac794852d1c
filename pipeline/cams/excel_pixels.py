"""The pixels that ExCEL's code gives to CLIP."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from torchvision.transforms.functional import normalize

from pipeline.clip.dimensions import Normalisation, patch_grid
from pipeline.clip.encoder import ClipEncoder


class ExcelEncoder(ClipEncoder):
    """An image tower that sees pixels as ExCEL's code prepares them; the weights are shared.

    The position embedding is never rounded to float16.
    """

    def __init__(self, encoder: ClipEncoder, size: int | None, *, imagenet_norm: bool):
        """Changes what an encoder sees.

        Args:
            encoder: the encoder, which is not modified.
            size: side of the square that images are squashed to; none keeps their own grid.
            imagenet_norm: quirk: pixels are normalised with ImageNet's mean and standard deviation.
        """
        vars(self).update(vars(encoder))
        self.size, self.position_fp16 = size, False
        if imagenet_norm:
            self.normalisation = Normalisation(IMAGENET_MEAN, IMAGENET_STD)

    def patch_grid(self, image: np.ndarray) -> tuple[int, int]:
        """Returns the patch grid h, w of an image, H×W×3."""
        if self.size is None:
            return super().patch_grid(image)
        return patch_grid(self.size, self.size, self.patch_size, self.max_patches)

    def prepare(self, image: np.ndarray, *, squeeze: bool = False) -> torch.Tensor:
        """Normalises an image and then squashes it (bilinear, without antialiasing)."""
        if self.size is None:
            return super().prepare(image, squeeze=squeeze)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = normalize(pixels, self.normalisation.mean, self.normalisation.std)
        size = [side * self.patch_size for side in self.patch_grid(image)]
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]
