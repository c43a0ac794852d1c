"""Patch-level classification: every patch classified on its own (TagCLIP, section 3.2)."""

from __future__ import annotations

import torch


def class_probabilities(
    features: torch.Tensor, text: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Returns the softmax of τ·f·t over all names; for patch features this is S⁰.

    Args:
        features: …×E, of length 1.
        text: C×E class embeddings, of length 1; classes first, then backgrounds.
        temperature: τ.

    Returns:
        …×C float32, whose rows sum to 1.
    """
    return (temperature * features @ text.mT).softmax(-1)


def strongest_patch(scores: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns the score of every class at its best patch, B×n from B×N×C."""
    return scores[..., :num_classes].amax(-2)
