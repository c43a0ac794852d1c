"""The files of a mask: palette PNGs of image size, and what is stored beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.files.images import encode_png
from pipeline.masks.labels import ignore_unsure, to_grey

UNFILTERED = ".unfiltered"
"""Folder of the masks before the confidence filter; these are measured."""

PROBABILITY = ".probability"
"""Folder of the probability of each pixel's label, as 8-bit grey PNGs of round(255 p)."""


def mask_files(
    image_id: str,
    labels: np.ndarray,
    probability: np.ndarray | None,
    palette: Sequence[tuple[int, int, int]],
    *,
    confidence: float,
    keep_probability: bool,
) -> dict[str, bytes]:
    """Returns the files of an image's mask, by their names below the stage's folder.

    Args:
        image_id: the image.
        labels: H×W uint8, before the filter.
        probability: H×W float32, of those labels; none where it is not known.
        palette: n+1 colours.
        confidence: pixels below this probability become 255.
        keep_probability: whether the probabilities are stored too.
    """
    unsure = probability is not None and confidence > 0
    filtered = ignore_unsure(labels, probability, confidence) if unsure else labels
    files = {f"{image_id}.png": encode_png(filtered, palette)}
    if keep_probability:
        files[f"{PROBABILITY}/{image_id}.png"] = encode_png(to_grey(probability))
    if confidence > 0:
        files[f"{UNFILTERED}/{image_id}.png"] = encode_png(labels, palette)
    return files
