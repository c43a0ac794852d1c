"""Decode heads that mmsegmentation lacks; importing this module registers them.

:func:`pipeline.segmenter.mmseg.import_mmseg` imports it after mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.segmenter.mmseg import import_mmseg

import_mmseg()

from mmseg.models.decode_heads.decode_head import BaseDecodeHead  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """The atrous spatial pyramid of DeepLab-V2 (Chen et al., TPAMI 2018, §4.2, "ASPP").

    The logits are the sum of 3×3 convolutions of the last feature map, one for each dilation rate,
    without image pooling, batch norm or a hidden layer. Weights are drawn from a normal
    distribution with standard deviation 0.01; biases start at 0.

    Args:
        in_channels: channels of the feature map.
        dilations: the dilation rates.
        **settings: arguments of mmsegmentation's ``BaseDecodeHead``, such as ``num_classes``.
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
        del self.conv_seg  # the branches compute the logits
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=rate, dilation=rate)
            for rate in dilations
        )

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×h×w, in the size of the feature map."""
        features = inputs[self.in_index]
        return sum(branch(features) for branch in self.branches)
