"""``masks=pamr`` and ``masks=par``: masks refined by averages over pixels of similar colour."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.clip.frozen import Resources
from pipeline.clip.pixels import to_pixels
from pipeline.dense.pixel_adaptive import pamr, par
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.masks.labels import label_pixels, shares
from pipeline.masks.refiner import MaskOptions, Refiner

_SECTION = "4. Masks: CRF and labels"


@dataclass
class PixelAdaptiveOptions(MaskOptions):
    """What PAMR and PAR have; the defaults are PAMR's.

    Attributes:
        iterations: how often scores are averaged over neighbours.
        dilations: distances of the neighbours in pixels.
        bandwidth: by which differences of colour are divided; a smaller one tells more apart.
    """

    iterations: int = setting(10, at_least=0, at_most=1000)
    dilations: list[int] = setting([8, 16], at_least=1, at_most=1000, lengths=range(1, 100))
    bandwidth: float = setting(0.1, at_least=1e-3, at_most=1e3)


@dataclass
class PamrOptions(PixelAdaptiveOptions):
    """``masks=pamr``: the best of the CAMs and the background for each pixel, after PAMR."""


@dataclass
class ParOptions(PixelAdaptiveOptions):
    """``masks=par``: the best of the CAMs and the background for each pixel, after PAR.

    Attributes:
        position_weight: the weight of the neighbours' distances, beside that of their colours.
        guide_side: the image is first squashed to a square of this side, in pixels, and enlarged
            again, which blurs it; ExCEL's code does so with 320. Null leaves it as it is.
    """

    iterations: int = setting(20, at_least=0, at_most=1000)
    dilations: list[int] = setting(
        [1, 2, 4, 8, 12, 24], at_least=1, at_most=1000, lengths=range(1, 100)
    )
    bandwidth: float = setting(0.3, at_least=1e-3, at_most=1e3)
    position_weight: float = setting(0.01, at_least=0, at_most=1e3)
    guide_side: int | None = setting(None, at_least=1, at_most=16_384)


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
            return shares(self.average(pixels, stacked)[0]).cpu().numpy()

        return label_pixels(cams, size, self._options.beta, refine)


@register(
    "masks",
    "pamr",
    PamrOptions,
    reads=(),
    source="Araslanov and Roth, CVPR 2020, arXiv 2005.08104",
    section=_SECTION,
)
class Pamr(PixelAdaptive):
    """Labels images after PAMR."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        return pamr(pixels, scores, **self._kernel)


@register(
    "masks",
    "par",
    ParOptions,
    reads=(),
    source="Ru et al., AFA, CVPR 2022, arXiv 2203.02664; as in Yang et al., ExCEL, CVPR 2025,"
    " arXiv 2503.20826",
    section=_SECTION,
)
class Par(PixelAdaptive):
    """Labels images after PAR."""

    def average(self, pixels: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Implements the base class."""
        of = self._options
        if of.guide_side is not None:
            side = (of.guide_side, of.guide_side)
            pixels = F.interpolate(pixels, side, mode="bilinear", align_corners=False)
        return par(pixels, scores, position_weight=of.position_weight, **self._kernel)
