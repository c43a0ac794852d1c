"""ExCEL's CAMs, slow and simple, of a CLIP of open_clip: written apart from the pipeline."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from tests.cams.test_cams import naive_affinity
from tests.clip.naive_boxes import naive_union
from tests.dense.naive import embed, heads_of, project_out, tokens_of

IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OPENAI = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def pixels_of(image: np.ndarray, side: int, mean: tuple, std: tuple) -> torch.Tensor:
    """Returns the squashed image, 1×3×side×side."""
    normalised = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    planes = torch.from_numpy(normalised).permute(2, 0, 1)[None]
    return F.interpolate(planes, (side, side), mode="bilinear", align_corners=False)


@torch.no_grad()
def look(clip: CLIP, pixels: torch.Tensor, blocks: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns F before any norm, (1+N)×E, and every block's attention, heads×(1+N)×(1+N)."""
    layers, second, attention = clip.visual.transformer.resblocks, None, []
    entering = tokens_of(clip, pixels[0])
    for number, (block, tokens) in enumerate(zip(layers, entering)):
        heads = heads_of(block, tokens)
        scale = heads[0][0].shape[1] ** -0.5
        attention.append(np.array([softmax((scale * q @ k.T).numpy()) for q, k, _ in heads]))
        if number >= len(layers) - blocks:
            second = tokens if second is None else second
            total = sum(softmax((scale * m @ m.T).numpy()) / 3 for head in heads for m in head)
            attended = [torch.from_numpy(total) @ v for _, _, v in heads]
            second = second + project_out(block, attended)
    second[0] = layers[-1](entering[-1][None])[0, 0]
    return embed(clip, second).numpy(), attention


def surgery(features: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Returns the maps of all names, C×N, from F after its norm."""
    count, names = len(features), len(text)
    similarity = [[float(np.dot(f, t)) for t in text] for f in features.astype(float)]
    weights = softmax(2 * np.array(similarity[0]))
    weights = weights / weights.mean()
    maps = []
    for c in range(names):
        apart = [
            weights[c] * row[c] - sum(weights[d] * row[d] for d in range(names)) / names
            for row in similarity
        ]
        low, high = min(apart), max(apart)
        maps.append([(apart[i] - low) / (high - low) for i in range(1, count)])
    return np.array(maps, np.float32)


def mean_attention(
    attention: list[np.ndarray], window: range, blocks: int, *, head_sum: bool
) -> np.ndarray:
    """Returns Ā of the blocks of a window, counted from 1."""
    total = 0.0
    for number in window:
        summed = head_sum and number > len(attention) - blocks
        of_block = attention[number - 1][:, 1:, 1:]
        total = total + (of_block.sum(0) if summed else of_block.mean(0))
    return total / len(window)


def refined(
    cams: np.ndarray, attention: np.ndarray, grid: tuple[int, int], phi: float, open_border: bool
) -> np.ndarray:
    """Returns refined CAMs, K×h×w in [0, 1]."""
    together, results = naive_affinity(attention), []
    for cam in cams:
        box = naive_union(cam.reshape(grid), phi, open_border).reshape(-1)
        spread = together @ (cam * box)
        spread = spread - spread.min()
        results.append((spread / (1e-7 + spread.max())).reshape(grid))
    return np.array(results)


def enriched(text: np.ndarray, attributes: np.ndarray, kept: float) -> np.ndarray:
    """Returns T, n×E."""
    rows = []
    for t in text.astype(float):
        likeness = sorted(((float(t @ a), k) for k, a in enumerate(attributes)), reverse=True)
        likeness = likeness[: len(attributes) - int((1 - kept) * len(attributes) + 1e-9)]
        weights = softmax(np.array([value for value, _ in likeness]))
        row = t + sum(w * attributes[k] for w, (_, k) in zip(weights, likeness))
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)
