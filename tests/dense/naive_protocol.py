"""The published protocol of dense methods in loops over windows and pixels, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.clip.encoder import ClipEncoder
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.windows import with_scaled_positions


def along(length: int, size: int) -> np.ndarray:
    """Returns size×length, the shares of ``length`` pixels in each of ``size`` bilinear ones."""
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(length)))


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes C×h×w, pixels being squares whose centres are half a pixel from their corner."""
    return along(values.shape[1], height) @ values @ along(values.shape[2], width).T


def on_grid(
    method: DenseMethod,
    encoder: ClipEncoder,
    pixels: np.ndarray,
    names: NameEmbeddings,
    scaled: bool,
) -> np.ndarray:
    """Returns the similarities of the whole patches of 3×H×W pixels, C×h×w."""
    patch = encoder.patch_size
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    whole = torch.from_numpy(pixels).float()[None]
    encoder = with_scaled_positions(encoder) if scaled else encoder
    found = method.similarities(encoder, method.run_pass(encoder, whole), names)[0]
    return found.numpy().T.reshape(-1, rows, columns).astype(np.float64)


def of_window(
    method: DenseMethod,
    encoder: ClipEncoder,
    pixels: np.ndarray,
    names: NameEmbeddings,
    remainder: str,
    scaled: bool,
) -> np.ndarray:
    """Returns the similarities of a window, 3×H×W, at its size, C×H×W."""
    _, height, width = pixels.shape
    if remainder == "stretch":
        return bilinear(on_grid(method, encoder, pixels, names, scaled), height, width)
    patch = encoder.patch_size
    tall, wide = -(-height // patch) * patch, -(-width // patch) * patch
    top, left = (tall - height) // 2, (wide - width) // 2
    padded = np.zeros((3, tall, wide), np.float32)
    padded[:, top : top + height, left : left + width] = pixels
    found = bilinear(on_grid(method, encoder, padded, names, scaled), tall, wide)
    return found[:, top : top + height, left : left + width]


def windowed(
    method: DenseMethod,
    encoder: ClipEncoder,
    pixels: np.ndarray,
    names: NameEmbeddings,
    side: int,
    stride: int,
    remainder: str = "stretch",
    scaled: bool = False,
) -> np.ndarray:
    """Returns the mean of the similarities over all windows of an image, C×H×W."""
    _, height, width = pixels.shape
    total, count = np.zeros((len(names.text), height, width)), np.zeros((height, width))
    bottom = 0
    y = 0
    while bottom < height:
        bottom = min(y + side, height)
        top, right, x = max(bottom - side, 0), 0, 0
        while right < width:
            right = min(x + side, width)
            left = max(right - side, 0)
            cut = np.s_[top:bottom, left:right]
            window = (method, encoder, pixels[:, *cut], names)
            total[:, *cut] += of_window(*window, remainder, scaled)
            count[cut] += 1
            x += stride
        y += stride
    return total / count


def decide(
    similarities: np.ndarray,
    lines: Sequence[int],
    temperature: float,
    min_area: float,
    min_probability: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the line of every pixel, H×W, and its probability, from C×H×W similarities."""
    exponentials = np.exp(temperature * (similarities - similarities.max(0)))
    names = exponentials / exponentials.sum(0)
    shape = (max(lines) + 1, *similarities.shape[1:])
    classes = np.zeros(shape)
    for line, probability in zip(lines, names):
        classes[line] = np.maximum(classes[line], probability)
    best = classes.argmax(0)
    if min_area:
        foreground = (best > 0).sum()
        for line in range(1, len(classes)):
            if (best == line).sum() <= min_area * foreground:
                classes[line] = 0
    best, probability = classes.argmax(0), classes.max(0)
    best[probability < min_probability] = 0
    return best, probability
