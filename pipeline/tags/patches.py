"""Patch-level classification: what every patch says by itself (TagCLIP, section 3.2)."""

from __future__ import annotations

import torch


def class_probabilities(
    features: torch.Tensor, text: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Returns softmax of τ·f·t over all candidate names.

    Args:
        features: …×E, of length 1.
        text: C×E class embeddings, of length 1; classes first, then backgrounds.
        temperature: τ.

    Returns:
        …×C float32, rows sum to 1. Of patch features this is S⁰.
    """
    return (temperature * features @ text.mT).softmax(-1)


def strongest_patch(scores: torch.Tensor, class_count: int) -> torch.Tensor:
    """Returns every class's score at its best patch, B×n from B×N×C."""
    return scores[..., :class_count].amax(-2)
