"""Decode heads that mmsegmentation does not have; importing this module registers them.

Import it through :func:`pipeline.segmenter.mmseg.import_mmseg`, after mmsegmentation itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import nn


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """The atrous spatial pyramid of DeepLab-V2 (Chen et al., TPAMI 2018, §4.2, "ASPP").

    The logits are the sum of 3×3 convolutions of the last feature map, one for each rate, straight
    to the classes: no image pooling, no batch norm, no hidden layer. Weights start from a normal
    distribution of standard deviation 0.01, biases from 0.

    Args:
        in_channels: of the feature map.
        dilations: the rates.
        **settings: of mmsegmentation's ``BaseDecodeHead``, ``num_classes`` among them.
    """

    def __init__(
        self,
        in_channels: int,
        dilations: Sequence[int] = (6, 12, 18, 24),
        **settings: Any,  # noqa: ANN401
    ) -> None:
        settings = {"dropout_ratio": 0, **settings}
        settings["init_cfg"] = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
        super().__init__(in_channels, channels=in_channels, **settings)
        del self.conv_seg  # the branches end in classes themselves
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=rate, dilation=rate)
            for rate in dilations
        )

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×h×w, of the feature map's size."""
        features = self._transform_inputs(inputs)
        return sum(branch(features) for branch in self.branches)
