"""What is done around a network when it is tested: other scales before it, the CRF behind it.

Nothing here needs mmsegmentation, so that processes of a pool start without importing it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import UserError
from pipeline.masks.crf import CrfSettings, dense_crf

CLEAN_CRF = CrfSettings(bgr=False, fp16=False)
"""The constants of the literature on weak supervision, on the image as it is."""


def check_scales(scales: Sequence[float]) -> None:
    """Checks the factors that an image is resized by.

    Raises:
        UserError: there is none, or one is not above 0.
    """
    if not scales or not all(0 < scale < np.inf for scale in scales):
        shown = " ".join(f"{scale:g}" for scale in scales) or "nothing"
        raise UserError(f"scales are {shown}: give numbers above 0, as in 0.5 1.0 1.5")


def scale_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image as mmsegmentation's test pipeline does, by OpenCV's bilinear filter.

    Args:
        image: H×W×3 uint8.
        scale: above 0.

    Returns:
        h×w×3 uint8; sides are rounded as by mmcv's ``Resize(scale_factor=…, keep_ratio=True)``,
        to 1 at least.
    """
    if scale == 1:
        return image
    from mmcv.image import imresize, rescale_size

    width, height = image.shape[1], image.shape[0]
    # mmcv rounds twice: the box that the image has to fit in, then the sides in it.
    box = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    size = tuple(max(1, side) for side in rescale_size((width, height), box))
    return imresize(image, size, interpolation="bilinear", backend="cv2")


def refine(
    image: np.ndarray, probabilities: np.ndarray, crf: CrfSettings = CLEAN_CRF
) -> np.ndarray:
    """Sharpens probabilities along the edges of the image with the fully connected CRF.

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
        return np.ones_like(probabilities)  # a single class is certain; the CRF wants two
    return dense_crf(image, probabilities, crf)
