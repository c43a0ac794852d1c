"""A mask refiner: each superpixel takes the label that most of its pixels have."""

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import slic

from pipeline.cams.cams import Cams
from pipeline.clip.frozen import Resources
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.masks.refiner import MaskOptions, Refiner


@dataclass
class SuperpixelOptions(MaskOptions):
    """The settings of ``masks=superpixels``.

    Attributes:
        segments: about how many superpixels an image has.
    """

    segments: int = setting(100, at_least=1)


@register("masks", "superpixels", SuperpixelOptions)
class Superpixels(Refiner):
    """Smooths the argmax of the CAMs by SLIC."""

    def __init__(self, options: SuperpixelOptions, resources: Resources):
        self.options = options

    def __call__(self, image: np.ndarray, cams: Cams) -> tuple[np.ndarray, None]:
        labels, _ = pseudo_mask(image, cams, None, self.options.beta)
        superpixels = slic(image, self.options.segments)
        for number in np.unique(superpixels):
            inside = superpixels == number
            labels[inside] = np.bincount(labels[inside]).argmax()
        return labels, None
