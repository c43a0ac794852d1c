"""From class activation maps to labels (docs/method.md, section 4), and their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE, read_labels

if TYPE_CHECKING:
    import torch

UNFILTERED = ".unfiltered"
"""Folder of the masks before the confidence filter; these are measured."""


def stack_background(cams: np.ndarray, beta: float | None) -> np.ndarray:
    """Prepends the background's score, (1 − max cam)^β, to the CAMs, without renormalisation.

    From K×H×W float in [0, 1] to (1+K)×H×W of the same type. Without ``beta`` the classes cover
    everything, which leaves the CAMs alone; only an image without any is background.
    """
    if beta is None and len(cams):
        return cams
    strongest = cams.max(0, initial=0).clip(max=1)  # a resize may round beyond
    return np.concatenate([((1 - strongest) ** (beta or 1))[None], cams])


def to_labels(channels: np.ndarray, keys: np.ndarray, *, background: bool = True) -> np.ndarray:
    """Turns channels, H×W, into labels, uint8 of the same shape: 0 background, k+1 class k.

    Channel 0 is the ``background``, if there is one; those of the K class indices ``keys`` follow.
    """
    labels = keys + 1
    if background:
        labels = np.concatenate([[0], labels])
    return labels.astype(np.uint8)[channels]


def resized_argmax(scores: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes scores, C×h×w float32 (bilinear), and takes the best channel of every pixel.

    One channel, of at most 256, is resized at a time: a large photograph needs memory for only two.
    Returns the channels, height×width uint8, of equal scores the first, and their scores, float32.
    """
    import torch
    import torch.nn.functional as F

    best = torch.full((height, width), -torch.inf)
    channel = torch.zeros(height, width, dtype=torch.uint8)
    for index, score in enumerate(torch.from_numpy(scores)):
        if score.shape != (height, width):
            score = F.interpolate(score[None, None], (height, width), mode="bilinear")[0, 0]
        channel[score > best] = index
        torch.maximum(best, score, out=best)
    return channel.numpy(), best.numpy()


def shares(scores: torch.Tensor) -> torch.Tensor:
    """Returns what share of its pixel's sum each score is, C×H×W; 0 where all scores are 0.

    These are the probabilities from which the CRF starts.
    """
    import torch

    return scores / scores.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)


def label_pixels(
    cams: Cams, size: tuple[int, int], beta: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels every pixel of an image by its best CAM, or the background.

    They are stacked at ``size``, height and width, see :func:`stack_background`. Returns what
    :func:`best_labels` does.
    """
    return best_labels(stack_background(cams.resized(*size), beta), cams)


def best_labels(scores: np.ndarray, cams: Cams) -> tuple[np.ndarray, np.ndarray]:
    """Labels every pixel by the best of C×h×w scores, those of the CAMs' classes last.

    Returns the labels of the image's full size, uint8, and the score of each, float32. An image
    without tags is background with score 1.
    """
    channels, best = resized_argmax(scores.astype(np.float32, copy=False), *cams.size)
    return to_labels(channels, cams.classes, background=len(scores) > len(cams.classes)), best


def ignore_unsure(labels: np.ndarray, probability: np.ndarray, confidence: float) -> np.ndarray:
    """Returns labels, H×W uint8, with 255 where the probability is below ``confidence``."""
    return np.where(probability < confidence, np.uint8(IGNORE), labels)


def mask_files(
    image_id: str,
    labels: np.ndarray,
    probability: np.ndarray | None,
    palette: Sequence[tuple[int, int, int]],
    *,
    confidence: float,
) -> dict[str, bytes]:
    """Returns the files of an image's mask, by their names below the stage's folder.

    Args:
        labels: H×W uint8, before the filter.
        probability: H×W float32, of those labels; without a confidence it may be none.
        palette: n+1 colours.
        confidence: pixels below this probability become 255; 0 for no filter.
    """
    name, unfiltered = f"{image_id}.png", encode_png(labels, palette)
    if not confidence:
        return {name: unfiltered}
    filtered = ignore_unsure(labels, probability, confidence)
    return {name: encode_png(filtered, palette), f"{UNFILTERED}/{name}": unfiltered}


def read_pseudo_mask(folder: Path, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image's mask after and before the filter, H×W uint8 each, from a stage's folder.

    Before it, pixels without a label (those that ``masks=file`` ignores) are background. Raises a
    FileNotFoundError if the mask is missing, and a UserError if a file is damaged.
    """
    labels = read_labels(folder / f"{image_id}.png")
    path = folder / UNFILTERED / f"{image_id}.png"
    unfiltered = read_labels(path) if path.is_file() else labels
    return labels, np.where(unfiltered == IGNORE, np.uint8(0), unfiltered)
