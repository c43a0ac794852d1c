"""The fully connected CRF (Krähenbühl and Koltun, NIPS 2011), computed by pydensecrf."""

import importlib
from types import ModuleType

import numpy as np

from pipeline.datasets.settings import CrfOptions
from pipeline.errors import UserError

_RELEASED_MEAN_BGR = (104.008, 116.669, 122.675)
_INSTALLATION = (
    "pip install 'cython>=3.0.11,<3.1' setuptools wheel && pip install --no-build-isolation"
    " 'pydensecrf2>=1.1,<2'"
)
_MIN_SCORE, _MAX_SCORE = 1e-5, 1.0


def crf_image(image: np.ndarray, *, bgr: bool) -> np.ndarray:
    """Returns the image that the appearance kernel compares, H×W×3 uint8."""
    if not bgr:
        return np.require(image, requirements="CW")  # pydensecrf refuses a read-only array
    shifted = image[..., ::-1].astype(np.float32) - np.array(_RELEASED_MEAN_BGR, np.float32)
    return np.ascontiguousarray(shifted.astype(np.int32).astype(np.uint8))


def import_densecrf() -> ModuleType:
    """Returns the module ``pydensecrf.densecrf``.

    Raises:
        UserError: it is not installed, as after a plain installation for Python 3.13.
    """
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ModuleNotFoundError as error:
        raise UserError(f"the dense CRF is not installed: run {_INSTALLATION}") from error


def dense_crf(
    image: np.ndarray, scores: np.ndarray, options: CrfOptions, *, bgr: bool = False
) -> np.ndarray:
    """Aligns scores with the edges of the image.

    Args:
        image: H×W×3 uint8, RGB.
        scores: C×H×W float in [0, 1]; they do not have to sum to one. Their logarithm is computed
            in their own type.
        options: the CRF's constants.
        bgr: quirk ``crf_bgr``: the image is BGR, minus a mean, cast to bytes with wrap-around.

    Returns:
        C×H×W float32 probabilities; all 1 if C is 1.

    Raises:
        UserError: pydensecrf is not installed.
    """
    if len(scores) == 1:
        return np.ones(scores.shape, np.float32)
    densecrf = import_densecrf()
    count, height, width = scores.shape
    crf = densecrf.DenseCRF2D(width, height, count)
    kind = scores.dtype.type
    unary = -np.log(np.clip(scores, kind(_MIN_SCORE), kind(_MAX_SCORE)))
    crf.setUnaryEnergy(np.ascontiguousarray(unary.astype(np.float32).reshape(count, -1)))
    crf.addPairwiseGaussian(sxy=options.gaussian_sxy, compat=options.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=options.bilateral_sxy,
        srgb=options.bilateral_srgb,
        rgbim=crf_image(image, bgr=bgr),
        compat=options.bilateral_compat,
    )
    return np.array(crf.inference(options.iterations), np.float32).reshape(scores.shape)
