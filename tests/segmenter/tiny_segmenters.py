"""Segmenters with random weights that see every class somewhere."""

import numpy as np
import torch

from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.mmseg_network import MmsegNetwork
from pipeline.segmenter.predict import Segmenter
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings

UNET = {
    "config": "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",
    "overrides": {
        "backbone": {"base_channels": 4},
        "decode_head": {"in_channels": 4, "channels": 4},
        "auxiliary_head": {"in_channels": 8, "channels": 4},
    },
}
"""A network that takes whole strides alone, and is given padded images."""


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def balanced_segmenter(tower=None, **changes):
    """No class wins everywhere, as one usually does with fresh weights."""
    torch.manual_seed(0)
    config = build_config(tiny_settings(**changes), CLASS_NAMES, PALETTE, 0, tower=tower)
    model = build_model(config.model)
    if tower is not None:
        model.backbone.load_tower(tower, "clip")
    segmenter = Segmenter(MmsegNetwork(model), ("background", *CLASS_NAMES), tuple(PALETTE))
    classifier = model.decode_head.conv_seg
    with torch.no_grad():
        classifier.weight.mul_(30)
        logits = segmenter.logits(noise(64, 64))
        classifier.bias.sub_(torch.from_numpy(logits.mean((1, 2))))
    assert len(np.unique(segmenter(noise(64, 64)))) == len(PALETTE)
    return segmenter
