"""The fully connected CRF (Krähenbühl and Koltun, NIPS 2011), computed by pydensecrf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RELEASED_MEAN_BGR = (104.008, 116.669, 122.675)
_MIN_SCORE, _MAX_SCORE = 1e-5, 1.0


@dataclass(frozen=True)
class CrfSettings:
    """The CRF's constants (docs/algorithms.md, section 4); the defaults are those of CLIP-ES.

    Attributes:
        iterations: of mean-field inference.
        gaussian_sxy: standard deviation of the smoothness kernel in pixels.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation of the appearance kernel in pixels.
        bilateral_srgb: its standard deviation in colour, in units of a byte.
        bilateral_compat: its weight.
        bgr: quirk ``crf_bgr``: the image is BGR, minus a mean, cast to bytes with wrap-around.
        fp16: quirk ``crf_fp16``: background, clip and logarithm are computed in float16.
    """

    iterations: int = 10
    gaussian_sxy: float = 1
    gaussian_compat: float = 3
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_compat: float = 4
    bgr: bool = True
    fp16: bool = True


def unary_energy(scores: np.ndarray) -> np.ndarray:
    """Returns −log of the scores, C×H×W, clipped to [1e-5, 1]; of the same shape and type."""
    kind = scores.dtype.type
    return -np.log(np.clip(scores, kind(_MIN_SCORE), kind(_MAX_SCORE)))


def crf_image(image: np.ndarray, *, bgr: bool) -> np.ndarray:
    """Returns the image that the appearance kernel compares, H×W×3 uint8."""
    if not bgr:
        return np.require(image, requirements="CW")  # pydensecrf refuses a read-only array
    shifted = image[..., ::-1].astype(np.float32) - np.array(_RELEASED_MEAN_BGR, np.float32)
    return np.ascontiguousarray(shifted.astype(np.int32).astype(np.uint8))


def dense_crf(image: np.ndarray, scores: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Aligns scores with the edges of the image.

    Args:
        image: H×W×3 uint8, RGB.
        scores: C×H×W float in [0, 1], C at least 2; they do not have to sum to one.
        settings: the CRF's constants.

    Returns:
        C×H×W float32 probabilities.
    """
    import pydensecrf.densecrf as densecrf

    count, height, width = scores.shape
    crf = densecrf.DenseCRF2D(width, height, count)
    unary = unary_energy(scores).astype(np.float32).reshape(count, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary))
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=crf_image(image, bgr=settings.bgr),
        compat=settings.bilateral_compat,
    )
    return np.array(crf.inference(settings.iterations), np.float32).reshape(scores.shape)
