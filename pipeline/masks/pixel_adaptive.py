"""``masks=pamr`` and ``masks=par``: masks refined by averages over pixels of similar colour."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.clip.device import to_host
from pipeline.clip.encoder import to_pixels
from pipeline.clip.frozen import Resources
from pipeline.dense.pixel_adaptive import pamr, par
from pipeline.masks.labels import label_pixels, shares
from pipeline.masks.refiner import Refiner
from pipeline.masks.settings import PixelAdaptiveOptions


class PixelAdaptive(Refiner):
    """Labels images by the largest score after averages over pixels of similar colour."""

    on_device: ClassVar[bool] = True

    def __init__(self, options: PixelAdaptiveOptions, resources: Resources):
        self._options = options
        self._kernel = {n: getattr(options, n) for n in ("iterations", "dilations", "bandwidth")}
        self._device = resources.device

    @abstractmethod
    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores, 1×C×h×w float32, averaged where pixels, 1×3×h×w float32, are alike."""

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, cams: Cams) -> tuple[np.ndarray, np.ndarray]:
        """Labels every pixel of an image; the probability is the share of the label's score."""
        size = image.shape[:2]
        # Both methods divide by standard deviations of colours, so that the mean and the deviation
        # by which pixels are normalised cancel out, whichever CLIP's they are.
        pixels = to_pixels(image, *size)[None].to(self._device)

        def refine(scores: np.ndarray) -> np.ndarray:
            stacked = torch.from_numpy(scores)[None].to(self._device)
            return to_host(shares(self.average(pixels, stacked)[0]))[0]

        return label_pixels(cams, size, self._options.beta, refine)


class Pamr(PixelAdaptive):
    """Labels images after PAMR."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        return pamr(pixels, scores, **self._kernel)


class Par(PixelAdaptive):
    """Labels images after PAR."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        options = self._options
        if options.guide_side is not None:
            side = (options.guide_side, options.guide_side)
            pixels = F.interpolate(pixels, side, mode="bilinear", align_corners=False)
        return par(pixels, scores, position_weight=options.position_weight, **self._kernel)
