"""``masks=crf`` and its presets: the argmax of the CAMs and the background, sharpened by a CRF."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.clip.frozen import Resources
from pipeline.engine.registry import register
from pipeline.engine.settings import setting
from pipeline.errors import UserError
from pipeline.masks.crf import CrfSettings, dense_crf
from pipeline.masks.labels import resized_argmax, stack_background, to_labels
from pipeline.masks.refiner import MaskOptions, Refiner


def pseudo_mask(
    image: np.ndarray,
    cams: Cams,
    crf: CrfSettings | None,
    beta: float | None = 1.0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels every pixel of an image.

    Args:
        image: h×w×3 uint8, RGB, perhaps shrunk; the CRF works at this size.
        cams: the image's CAMs.
        crf: the CRF's constants; none takes the argmax of the CAMs and the background.
        beta: β of the background; none where the classes cover everything.

    Returns:
        The labels of the image's full size, uint8, and the CRF's probability of each, float32, or
        none where there is no CRF. An image without tags is background with probability 1.
    """
    if not len(cams.keys):
        labels, probability = np.zeros(cams.size, np.uint8), np.ones(cams.size, np.float32)
        return labels, None if crf is None else probability
    resized = cams.resized(*image.shape[:2])
    if crf is not None and crf.fp16:
        resized = resized.astype(np.float16)
    scores = stack_background(resized, beta)
    if crf is not None:
        # A single class without a background is certain; the CRF requires two channels.
        scores = dense_crf(image, scores, crf) if len(scores) > 1 else np.ones_like(scores)
    channels, probability = resized_argmax(scores.astype(np.float32), *cams.size)
    labels = to_labels(channels, cams.keys, background=beta is not None)
    return labels, None if crf is None else probability


@dataclass
class CrfOptions:
    """The constants of the dense CRF, see :class:`pipeline.masks.crf.CrfSettings`."""

    iterations: int = setting(10, at_least=0)
    gaussian_sxy: float = setting(1, above=0)
    gaussian_compat: float = setting(3, at_least=0)
    bilateral_sxy: float = setting(67, above=0)
    bilateral_srgb: float = setting(3, above=0)
    bilateral_compat: float = setting(4, at_least=0)

    def settings(self, *, bgr: bool, fp16: bool) -> CrfSettings:
        """Returns the constants with the quirks of the released code."""
        return CrfSettings(**asdict(self), bgr=bgr, fp16=fp16)


@dataclass
class PseudoMaskOptions(MaskOptions):
    """``masks=crf``.

    Attributes:
        crf: the CRF's constants; none leaves it out.
    """

    crf: CrfOptions | None = field(default_factory=CrfOptions)

    def validate(self, prefix: str) -> None:
        """Refuses to store probabilities that do not exist.

        Raises:
            UserError: they are to be stored, but there is no CRF.
        """
        if self.keep_probability and self.crf is None:
            raise UserError(
                f"{prefix}.keep_probability needs a CRF, which {prefix}.crf=null leaves out: choose"
                f" masks=crf_weighted or {prefix}.keep_probability=false"
            )


@register("masks", "crf", PseudoMaskOptions, quirks=("crf_bgr", "crf_fp16"))
class PseudoMask(Refiner):
    """Labels images by :func:`pseudo_mask`."""

    def __init__(self, options: PseudoMaskOptions, resources: Resources):
        """Takes the constants; there is nothing to load."""
        quirks = resources.quirks
        self._crf = options.crf and options.crf.settings(bgr=quirks.crf_bgr, fp16=quirks.crf_fp16)
        self._beta = options.beta

    def __call__(self, image: np.ndarray, cams: Cams) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels every pixel of an image."""
        return pseudo_mask(image, cams, self._crf, self._beta)
