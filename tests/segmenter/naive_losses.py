"""Losses as loops over pixels in float64, and heads of networks to compare with them."""

from __future__ import annotations

import math

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from torch import nn

from pipeline.segmenter.mmseg import build_config
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings

FAST_SCNN = "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"


def model_config(name: str | None = None, **changes: object) -> ConfigDict:
    if name is not None:
        changes |= {"config": name, "overrides": {}}
    settings = tiny_settings(**changes)
    return build_config(settings, CLASS_NAMES, PALETTE, seed=0).model


class HeadsAlone(nn.Module):
    """What is asked of a network's heads, without the cost of its backbone."""

    def __init__(self, model: ConfigDict):
        super().__init__()
        from mmseg.registry import MODELS

        heads = model.decode_head
        heads = [MODELS.build(h) for h in (heads if isinstance(heads, list) else [heads])]
        self.decode_head = heads[0] if len(heads) == 1 else nn.ModuleList(heads)


def naive_cross_entropy(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    balanced: bool,
) -> tuple[float, np.ndarray]:
    """Returns the loss and its gradient, pixel by pixel; N×C×H×W, N×H×W, N×H×W float64."""
    kinds = [lambda label: label == 0, lambda label: label not in (0, 255)]
    kinds = kinds if balanced else [lambda label: label != 255]
    pixels = list(np.ndindex(labels.shape))
    groups = [[p for p in pixels if kind(labels[p])] for kind in kinds]
    groups = [group for group in groups if group]
    loss, gradient = 0.0, np.zeros_like(scores)
    for group in groups:
        for n, y, x in group:
            weight = 1.0 if weights is None else weights[n, y, x]
            share = weight / len(group) / len(groups)
            exponentials = [math.exp(score) for score in scores[n, :, y, x]]
            probabilities = [e / sum(exponentials) for e in exponentials]
            loss -= share * math.log(probabilities[labels[n, y, x]])
            for label, probability in enumerate(probabilities):
                gradient[n, label, y, x] = share * (probability - (label == labels[n, y, x]))
    return loss, gradient


def as_samples(labels: torch.Tensor) -> list:
    """Returns a SegDataSample for each of N×1×H×W labels."""
    from mmseg.structures import SegDataSample

    return [SegDataSample(gt_sem_seg=PixelData(data=own)) for own in labels]
