"""Test-time scaling and the CRF.

This module does not import mmsegmentation, so that worker processes for the CRF start quickly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import UserError
from pipeline.masks.crf import CrfOptions, dense_crf

CLEAN_CRF = CrfOptions()
"""The constants of CLIP-ES without the quirks of its released code."""


def check_scales(scales: Sequence[float]) -> None:
    """Checks the factors by which an image is resized.

    Raises:
        UserError: the list is empty, or a factor is not above 0.
    """
    if not scales or not all(0 < scale < np.inf for scale in scales):
        shown = " ".join(f"{scale:g}" for scale in scales) or "nothing"
        raise UserError(f"scales are {shown}: give numbers above 0, as in 0.5 1.0 1.5")


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image as mmsegmentation's test pipeline does: bilinearly, with OpenCV.

    Args:
        image: H×W×3 uint8.
        scale: above 0.

    Returns:
        h×w×3 uint8. Sides are rounded as in mmcv's ``Resize(scale_factor=…, keep_ratio=True)``
        and are at least 1.
    """
    if scale == 1:
        return image
    from mmcv.image import imresize, rescale_size

    width, height = image.shape[1], image.shape[0]
    # mmcv rounds twice: first the box into which the image must fit, then the sides.
    box = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    size = tuple(max(1, side) for side in rescale_size((width, height), box))
    return imresize(image, size, interpolation="bilinear", backend="cv2")


def refine(image: np.ndarray, probabilities: np.ndarray, crf: CrfOptions = CLEAN_CRF) -> np.ndarray:
    """Refines probabilities along the edges of the image with the dense CRF.

    Args:
        image: H×W×3 uint8, RGB.
        probabilities: C×H×W float32.
        crf: the CRF's constants.

    Returns:
        C×H×W float32 that sums to 1 over C.
    """
    if probabilities.shape[1:] != image.shape[:2]:
        raise ValueError(f"{probabilities.shape} probabilities for an image of {image.shape}")
    if len(probabilities) == 1:
        return np.ones_like(probabilities)  # the CRF needs two classes
    return dense_crf(image, probabilities, crf)
