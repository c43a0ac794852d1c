"""OpenCV's bilinear resize of 8-bit images, by which the authors of dense methods read images."""

from __future__ import annotations

import numpy as np

_ONE = 1 << 11  # the weight 1: OpenCV computes with 11 binary digits


def resize_as_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image as ``cv2.resize`` does with INTER_LINEAR, to the last digit.

    It takes the two nearest pixels of each axis, even where the image shrinks. OpenCV rounds
    weights to 11 binary digits, and products between the two axes, so that one value in eight
    differs by one grey level from the exact interpolation.

    Args:
        image: h×w×3 uint8.
        height: of the result, height×width×3 uint8.
        width: of the result.
    """
    left, right, share = _neighbours(image.shape[1], width)
    share = np.where(left == right, np.float32(0), share)  # beyond the outermost pixels
    first, second = _weights(share)
    pixels = image.astype(np.int32)
    rows = pixels[:, left] * first[:, None] + pixels[:, right] * second[:, None]
    top, bottom, share = _neighbours(image.shape[0], height)
    first, second = (weight[:, None, None] for weight in _weights(share))
    total = (first * (rows[top] >> 4) >> 16) + (second * (rows[bottom] >> 4) >> 16)
    return (total + 2 >> 2).astype(np.uint8)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two pixels between which each of ``size`` new ones lies, and how far it is."""
    places = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    before = np.floor(places)
    share = places - before
    index = before.astype(np.int64)
    return index.clip(0, length - 1), (index + 1).clip(0, length - 1), share


def _weights(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.rint(part * _ONE).astype(np.int32) for part in (1 - share, share))
