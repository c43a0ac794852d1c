"""Decode heads on the tokens of a frozen vision transformer; importing this module registers them.

Their input are the feature maps of :class:`~pipeline.segmenter.frozen_tower.FrozenTower`, N×D×h×w
each. ``settings`` are arguments of mmsegmentation's ``BaseDecodeHead``, such as ``num_classes``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn

from pipeline.segmenter.guided import GuidedLogits
from pipeline.segmenter.openmmlab import importable

with importable():
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.registry import MODELS


class _HeadOnTokens(BaseDecodeHead):
    """A head whose parts start from PyTorch's own initial weights."""

    def __init__(self, in_channels: Sequence[int], channels: int, **settings: Any) -> None:  # noqa: ANN401
        settings = {"dropout_ratio": 0, **settings, "input_transform": "multiple_select"}
        super().__init__(in_channels, channels=channels, **settings, init_cfg=[])

    def projected(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the projected tokens of each feature map side by side, N×hw×(maps · channels)."""
        maps = zip(self.projections, inputs)
        return torch.cat([layer(each.flatten(2).mT) for layer, each in maps], -1)


@MODELS.register_module()
class TokensHead(_HeadOnTokens):
    """Joins the tokens of all blocks, labels four times as many places on each side, then pixels.

    Each block has a layer norm, a linear layer and GELU of its own; a linear layer joins them, two
    transformer layers follow, and a transposed convolution. The image, which is the last input,
    guides the logits to its edges. Only this upsampling was published.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 128, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(in_channels, channels, **settings)
        half = channels // 2
        parts = ((nn.LayerNorm(d), nn.Linear(d, channels), nn.GELU()) for d in in_channels)
        self.projections = nn.ModuleList(nn.Sequential(*each) for each in parts)
        self.fusion = nn.Linear(channels * len(in_channels), channels)
        self.layers = nn.Sequential(*(ResidualAttentionBlock(channels, 4) for _ in range(2)))
        enlarge = nn.ConvTranspose2d(channels, half, 4, stride=4)
        self.enlarge = nn.Sequential(enlarge, nn.GroupNorm(8, half), nn.GELU())
        self.conv_seg = nn.Conv2d(half, self.out_channels, 3, padding=1)
        self.guided = GuidedLogits(half)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×H×W, of feature maps and the image, N×3×H×W."""
        *maps, image = inputs
        tokens = self.layers(self.fusion(self.projected(maps)))
        features = self.enlarge(tokens.mT.unflatten(-1, maps[0].shape[2:]))
        return self.guided(self.cls_seg(features), features, image)


@MODELS.register_module()
class WeclipHead(_HeadOnTokens):
    """The decoder of WeCLIP (Zhang et al., CVPR 2024, section 3.2), written from its description.

    It reads the tokens after all blocks but the last. Its transformer has three layers of width
    ``channels`` with eight heads. All of it is computed in one precision.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(in_channels, channels, **{"dropout_ratio": 0.1, **settings})
        w = channels
        parts = ((nn.Linear(d, w), nn.ReLU(), nn.Linear(w, w)) for d in in_channels)
        self.projections = nn.ModuleList(nn.Sequential(*each) for each in parts)
        self.fusion = nn.Conv2d(w * len(in_channels), w, 1)
        layers = (ResidualAttentionBlock(w, 8, act_layer=QuickGELU) for _ in range(3))
        self.layers = nn.Sequential(*layers)

    def fused(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the fused map, N×channels×h×w, without dropout."""
        return self.fusion(self.projected(inputs).mT.unflatten(-1, inputs[0].shape[2:]))

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×h×w."""
        fused = self.dropout(self.fused(inputs)) if self.dropout else self.fused(inputs)
        tokens = self.layers(fused.flatten(2).mT)
        return self.conv_seg(tokens.mT.unflatten(-1, fused.shape[2:]))


@MODELS.register_module()
class LinearHead(_HeadOnTokens):
    """Batch norm and one linear layer on the last tokens, as DINOv2 is judged (section 7.4)."""

    def __init__(self, in_channels: Sequence[int], **settings: Any) -> None:  # noqa: ANN401
        super().__init__(in_channels, **{**settings, "channels": in_channels[-1]})
        self.norm = build_norm_layer(self.norm_cfg, in_channels[-1])[1]

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits, N×C×h×w."""
        return self.cls_seg(self.norm(inputs[-1]))
