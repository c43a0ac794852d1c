"""``masks=crf`` and its presets: the argmax of the CAMs and the background, sharpened by a CRF."""

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.clip.frozen import Resources
from pipeline.masks.crf import CrfOptions, dense_crf, import_densecrf
from pipeline.masks.labels import best_labels, label_pixels, stack_background
from pipeline.masks.refiner import Refiner
from pipeline.masks.settings import PseudoMaskOptions


def pseudo_mask(
    image: np.ndarray,
    cams: Cams,
    crf: CrfOptions | None,
    beta: float | None = 1.0,
    *,
    bgr: bool = False,
    fp16: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels every pixel of an image.

    Args:
        image: h×w×3 uint8, RGB, perhaps shrunk; the CRF works at this size.
        crf: the CRF's constants; none takes the argmax of the CAMs and the background.
        beta: β of the background; none where the classes cover everything.
        bgr: quirk ``crf_bgr``, see :func:`pipeline.masks.crf.dense_crf`.
        fp16: quirk ``crf_fp16``: background, clip and logarithm are computed in float16.

    Returns:
        The labels of the image's full size, uint8, and the CRF's probability of each, float32, or
        none where there is no CRF. An image without tags is background with probability 1.
    """
    size = image.shape[:2]
    if crf is None:
        return label_pixels(cams, size, beta)[0], None
    kind = np.float16 if fp16 else np.float32
    scores = stack_background(cams.resized(*size).astype(kind, copy=False), beta)
    return best_labels(dense_crf(image, scores, crf, bgr=bgr), cams)


class PseudoMask(Refiner):
    """Labels images by :func:`pseudo_mask`."""

    def __init__(self, options: PseudoMaskOptions, resources: Resources):
        self._options = options
        self._quirks = resources.quirks
        if options.crf is not None:
            import_densecrf()  # before the first image, if it is missing

    def __call__(self, image: np.ndarray, cams: Cams) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels every pixel of an image."""
        options, quirks = self._options, self._quirks
        return pseudo_mask(
            image, cams, options.crf, options.beta, bgr=quirks.crf_bgr, fp16=quirks.crf_fp16
        )
