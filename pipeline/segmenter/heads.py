"""Decode heads that mmsegmentation lacks; importing this module registers them.

:func:`pipeline.segmenter.mmseg.import_mmseg` imports it after mmsegmentation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn import functional

from pipeline.segmenter.openmmlab import importable

with importable():
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.registry import MODELS


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """The atrous spatial pyramid of DeepLab-V2 (Chen et al., TPAMI 2018, §4.2, "ASPP").

    The logits are the sum of 3×3 convolutions of the last feature map, one for each dilation rate,
    without image pooling, batch norm or a hidden layer. Weights are drawn from a normal
    distribution with standard deviation 0.01; biases start at 0. The ``settings`` are arguments of
    mmsegmentation's ``BaseDecodeHead``, such as ``num_classes``.
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
        return sum(branch(inputs[self.in_index]) for branch in self.branches)


@MODELS.register_module()
class AllMlpHead(BaseDecodeHead):
    """The all-MLP decoder of SegFormer (Xie et al., NeurIPS 2021, §3.2, equation 4).

    Each feature map is projected to the same number of channels and upsampled to the size of the
    first one; a layer fuses their concatenation, and a linear classifier follows. The layers are
    1×1 convolutions with normalisation and activation. Written from the paper, because the licence
    of mmsegmentation's ``SegformerHead`` allows no commercial use.

    Args:
        in_channels: channels of the feature maps, which ``in_index`` chooses from the backbone's.
        channels: of each projection and of the fused map.
        **settings: arguments of mmsegmentation's ``BaseDecodeHead``, such as ``num_classes``.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, **settings: Any) -> None:  # noqa: ANN401
        settings["input_transform"] = "multiple_select"  # several feature maps are allowed
        super().__init__(in_channels, channels=channels, **settings)
        layer = partial(ConvModule, kernel_size=1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.projections = nn.ModuleList(layer(width, channels) for width in in_channels)
        self.fusion = layer(channels * len(in_channels), channels)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×h×w, in the size of the first feature map."""
        levels = [project(inputs[i]) for i, project in zip(self.in_index, self.projections)]
        size = levels[0].shape[2:]
        resized = (
            functional.interpolate(level, size, mode="bilinear", align_corners=self.align_corners)
            for level in levels[1:]
        )
        return self.cls_seg(self.fusion(torch.cat([levels[0], *resized], dim=1)))
