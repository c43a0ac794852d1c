"""ExCEL's CAMs, slow and simple, of a CLIP of open_clip: written apart from the pipeline."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from tests.cams.test_cams import naive_affinity
from tests.clip.naive_boxes import naive_union

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


def embedded(clip: CLIP, pixels: torch.Tensor) -> torch.Tensor:
    """Returns the tokens that enter block 1, (1+N)×D."""
    visual = clip.visual
    patches = visual.conv1(pixels)
    positions, native = visual.positional_embedding, visual.grid_size
    grid = positions[1:].reshape(*native, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, patches.shape[-2:], mode="bilinear", align_corners=False)
    positions = torch.cat([positions[:1], grid[0].flatten(1).T])
    tokens = torch.cat([visual.class_embedding[None], patches[0].flatten(1).T])
    return visual.ln_pre(tokens + positions)


@torch.no_grad()
def look(clip: CLIP, pixels: torch.Tensor, blocks: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns F before any norm, (1+N)×E, and every block's attention, heads×(1+N)×(1+N)."""
    visual, second, attention = clip.visual, None, []
    tokens = embedded(clip, pixels)
    layers = list(visual.transformer.resblocks)
    for number, block in enumerate(layers):
        heads = block.attn.num_heads
        width = tokens.shape[1] // heads
        projected = block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = projected.chunk(3, -1)
        per_head = [slice(width * h, width * (h + 1)) for h in range(heads)]
        ordinary = [softmax((q[:, h] @ k[:, h].T / width**0.5).numpy()) for h in per_head]
        attention.append(np.array(ordinary))
        if number >= len(layers) - blocks:
            second = tokens if second is None else second
            total = sum(
                softmax((m[:, h] @ m[:, h].T / width**0.5).numpy()) / 3
                for h in per_head
                for m in (q, k, v)
            )
            attended = torch.cat([torch.from_numpy(total) @ v[:, h] for h in per_head], -1)
            second = second + block.attn.out_proj(attended)
        normed = block.ln_1(tokens)[None]
        tokens = tokens + block.attn(normed, normed, normed, need_weights=False)[0][0]
        tokens = tokens + block.mlp(block.ln_2(tokens))
    second[0] = tokens[0]
    return (visual.ln_post(second) @ visual.proj).numpy(), attention


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
