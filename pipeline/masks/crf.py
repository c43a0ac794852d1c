"""The fully connected CRF (Krähenbühl and Koltun, NIPS 2011).

pydensecrf defines it. A kernel, ``crf.cpp``, gives the same bits in less than half of the time.
Where it cannot be compiled, or gives other bits on a small image, pydensecrf computes.
"""

import ctypes
import importlib
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from pipeline.datasets.settings import CrfOptions
from pipeline.engine.compiler import NoKernelError, compiled, load, note_fallback
from pipeline.errors import UserError

_SOURCE = Path(__file__).with_suffix(".cpp")
_HEADERS = (Path(__file__).with_name("permutohedral.hpp"),)
# Without contraction, since pydensecrf rounds products before they are added.
_OPTIONS = ("-O3", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")

_RELEASED_MEAN_BGR = (104.008, 116.669, 122.675)
_MAX_FEATURE = 2**24  # standard deviations; soon above, pydensecrf ends the process


def crf_image(image: np.ndarray, *, bgr: bool) -> np.ndarray:
    """Returns the image that the appearance kernel compares, H×W×3 uint8."""
    if not bgr:
        return np.require(image, requirements="CW")  # pydensecrf refuses a read-only array
    shifted = image[..., ::-1].astype(np.float32) - np.array(_RELEASED_MEAN_BGR, np.float32)
    return np.ascontiguousarray(shifted.astype(np.int32).astype(np.uint8))


def import_densecrf() -> ModuleType:
    """Returns the module ``pydensecrf.densecrf``; raises a UserError if it is not installed."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ModuleNotFoundError as error:  # as after a plain installation for Python 3.13 or later
        raise UserError(
            "the dense CRF is not installed: run pip install 'cython>=3.0.11,<3.1' setuptools"
            " wheel && pip install --no-build-isolation 'pydensecrf2>=1.1,<2'"
        ) from error


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
        C×H×W float32 probabilities; 0 for labels that ``min_probability`` leaves out, and all 1 for
        a label that is alone.

    Raises:
        UserError: pydensecrf is not installed.
        ValueError: there are no labels or pixels, or a standard deviation is NaN, 0, or far below a
            pixel or a grey level.
        MemoryError: there is too little memory.
    """
    if 0 in scores.shape:
        raise ValueError(f"scores of shape {scores.shape}: give at least one label and one pixel")
    far = max(scores.shape[1:])
    for name, most in (("gaussian_sxy", far), ("bilateral_sxy", far), ("bilateral_srgb", 255)):
        if not most < _MAX_FEATURE * getattr(options, name):  # also if it is NaN
            raise ValueError(f"{name}={getattr(options, name)}: give a larger standard deviation")
    if options.min_probability:
        kept = scores.max((1, 2)) >= options.min_probability
        kept[np.unique(scores.argmax(0))] = True
        refined, every = np.zeros(scores.shape, np.float32), replace(options, min_probability=0)
        refined[kept] = dense_crf(image, scores[kept], every, bgr=bgr)
        return refined
    if len(scores) == 1:
        return np.ones(scores.shape, np.float32)
    unary = -np.log(scores.clip(1e-5, 1.0))
    energies = np.ascontiguousarray(unary.astype(np.float32))
    compared = crf_image(image, bgr=bgr)
    kernel = _kernel()
    found = None if kernel is None else kernel(energies, compared, options)
    return by_pydensecrf(energies, compared, options) if found is None else found


def by_pydensecrf(unary: np.ndarray, image: np.ndarray, options: CrfOptions) -> np.ndarray:
    """Computes the mean field by pydensecrf: C×H×W float32 probabilities.

    ``unary`` are energies, C×H×W float32; the appearance kernel compares ``image``, H×W×3 uint8.
    """
    count, height, width = unary.shape
    crf = import_densecrf().DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(unary.reshape(count, -1))
    crf.addPairwiseGaussian(sxy=options.gaussian_sxy, compat=options.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=options.bilateral_sxy,
        srgb=options.bilateral_srgb,
        rgbim=image,
        compat=options.bilateral_compat,
    )
    return np.array(crf.inference(options.iterations), np.float32).reshape(unary.shape)


class CrfKernel:
    """The compiled kernel, which threads may share."""

    def __init__(self) -> None:
        """Compiles it, unless it is kept; a NoKernelError if that fails."""
        (self._compute,) = load(compiled(_SOURCE, _OPTIONS, headers=_HEADERS), "dense_crf")

    def __call__(
        self, unary: np.ndarray, image: np.ndarray, options: CrfOptions
    ) -> np.ndarray | None:
        """Computes what :func:`by_pydensecrf` does, of contiguous arrays.

        Returns none for more labels than it is fast for, and for what pydensecrf refuses.
        """
        if image.dtype != np.uint8 or image.shape != (*unary.shape[1:], 3):
            return None
        iterations, *constants, _ = astuple(options)  # in the order in which the kernel takes them
        constants = np.array(constants, np.float32)
        found = np.empty_like(unary)
        given = [ctypes.c_void_p(array.ctypes.data) for array in (unary, image, constants)]
        sizes = [ctypes.c_int64(number) for number in (*unary.shape, iterations)]
        status = self._compute(*given, *sizes, ctypes.c_void_p(found.ctypes.data))
        if status == 2:
            raise MemoryError("too little memory for the CRF of an image")
        return None if status else found


@cache
def _kernel() -> CrfKernel | None:
    """Returns the kernel if it gives pydensecrf's bits on a small image here."""
    try:
        kernel = CrfKernel()
    except NoKernelError as error:
        note_fallback(error)
        return None
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (23, 21, 3), np.uint8)
    for labels in (2, 3, 7, 8, 21):
        unary = random.random((labels, *image.shape[:2]), np.float32) * 10
        expected = by_pydensecrf(unary, image, CrfOptions())
        if not np.array_equal(kernel(unary, image, CrfOptions()), expected):
            note_fallback(f"{_SOURCE.name} gives other bits than pydensecrf on this machine")
            return None
    return kernel
