"""From class activation maps to labels (ALGORITHMS §4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.datasets.vocabulary import IGNORE


def stack_background(cams: np.ndarray, beta: float | None = 1.0) -> np.ndarray:
    """Puts the background's score, (1 − max cam)^β, before the maps; no renormalisation.

    Args:
        cams: K×H×W float in [0, 1]; K may be 0 where there is a background.
        beta: β; none where the classes cover everything and there is no background.

    Returns:
        (1+K)×H×W of the same type, or the maps alone.
    """
    if beta is None:
        return cams
    strongest = cams.max(0, initial=0)
    return np.concatenate([((1 - strongest) ** beta)[None], cams])


def to_labels(channels: np.ndarray, keys: np.ndarray, *, background: bool = True) -> np.ndarray:
    """Turns channels into labels: 0, where there is a background, and class + 1 for each tag."""
    return np.concatenate([[0] * background, keys + 1]).astype(np.uint8)[channels]


def resized_argmax(scores: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes scores (bilinear) and takes the best channel of every pixel.

    One channel is resized at a time, so that a large photograph needs memory for two of them.

    Args:
        scores: C×h×w float32, C at most 256.
        height: of the result.
        width: of the result.

    Returns:
        The channels, height×width uint8, and their scores, height×width float32.
    """
    best = channel = None
    for index, score in enumerate(torch.from_numpy(scores)):
        if score.shape != (height, width):
            score = F.interpolate(
                score[None, None], (height, width), mode="bilinear", align_corners=False
            )[0, 0]
        if best is None:
            best, channel = score.clone(), torch.zeros(height, width, dtype=torch.uint8)
            continue
        channel[score > best] = index
        torch.maximum(best, score, out=best)
    return channel.numpy(), best.numpy()


def ignore_unsure(labels: np.ndarray, probability: np.ndarray, confidence: float) -> np.ndarray:
    """Returns the labels, H×W uint8, with those below a probability set to 255."""
    return np.where(probability < confidence, np.uint8(IGNORE), labels)


def to_grey(probability: np.ndarray) -> np.ndarray:
    """Rounds probabilities, H×W float in [0, 1], to 255ths: H×W uint8."""
    return np.rint(255 * np.clip(probability, 0, 1)).astype(np.uint8)
