"""Logits that move to the edges of an image; importing this module registers the segmentor."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from pipeline.segmenter.onnx_network import resize_scores
from pipeline.segmenter.openmmlab import importable
from pipeline.segmenter.settings import STRIDE

with importable():
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS

_DILATIONS = 1, 2
_CENTRE = 3.0  # bias of a place's own logits: at the start they have 7/10 of the weight
_LEAST = 0.01  # of a weight at the start; smaller ones would hardly learn


@MODELS.register_module()
class GuidedEncoderDecoder(EncoderDecoder):
    """A segmentor whose head reads the normalised image after the feature maps, N×3×H×W."""

    def extract_feat(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the feature maps of the backbone, and the image."""
        return (*super().extract_feat(inputs), inputs)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.GELU())


class GuidedLogits(nn.Module):
    """Moves coarse logits to the edges of the image, and enlarges them to its pixels.

    Logits become weighted means of their 3×3 neighbours, near and then farther (CSPN, Cheng et al.,
    ECCV 2018), and each pixel a convex combination of the 3×3 places round its own (RAFT, Teed and
    Deng, ECCV 2020, section 3.3). The weights follow from the image and from features, from which
    no gradient returns. They are the same for all classes, so that no texture can become a class.
    At first the logits nearly stay what they are, and pixels are interpolated bilinearly.

    Args:
        features: the number of channels of the features.
        channels: those of what is computed from the image.
    """

    def __init__(self, features: int, channels: int = 64) -> None:
        super().__init__()
        widths = (3, channels // 2, 2), (channels // 2, channels, 2), (channels, channels, 1)
        self.stem = nn.Sequential(*(_convolution(*each) for each in widths))
        self.guide = _convolution(features + channels, channels)
        self.propagation = nn.Conv2d(channels, len(_DILATIONS) * 9, 3, padding=1)
        self.upsampling = nn.Conv2d(channels, 9 * STRIDE**2, 1)
        nn.init.zeros_(self.propagation.weight)
        nn.init.zeros_(self.upsampling.weight)
        self.propagation.bias.data = torch.eye(9)[4].mul(_CENTRE).repeat(len(_DILATIONS))
        self.upsampling.bias.data = bilinear_weights().add(_LEAST).log().flatten()

    def forward(
        self, logits: torch.Tensor, features: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Returns N×C×H×W of logits, N×C×h×w, features, N×D×h×w, and the image, N×3×H×W.

        All three cover the same picture. H and W are multiples of ``STRIDE``, whatever h and w.
        """
        size = image.shape[2] // STRIDE, image.shape[3] // STRIDE
        logits, features = (
            resize_scores(each, size, align_corners=False) for each in (logits, features.detach())
        )
        guide = self.guide(torch.cat([features, self.stem(image)], 1))
        spread = self.propagation(guide).float().unflatten(1, (-1, 9)).softmax(2)
        for number, dilation in enumerate(_DILATIONS):
            logits = sum(
                near * spread[:, number, place, None]
                for place, near in enumerate(_neighbours(logits, dilation))
            )
        weights = self.upsampling(guide).float().unflatten(1, (9, -1)).softmax(1)
        near = torch.stack([*_neighbours(logits)], 1)
        pixels = torch.einsum("npchw,npshw->ncshw", near, weights)
        return functional.pixel_shuffle(pixels.flatten(1, 2), STRIDE)


def _neighbours(maps: torch.Tensor, dilation: int = 1) -> Iterator[torch.Tensor]:
    """Yields for each of the 3×3 neighbours, row by row, the maps that hold it in its place."""
    (rows, columns), offsets = maps.shape[2:], (0, dilation, 2 * dilation)
    around = functional.pad(maps, [dilation] * 4, mode="replicate")
    return (around[..., y : y + rows, x : x + columns] for y in offsets for x in offsets)


def bilinear_weights() -> torch.Tensor:
    """Returns 9×S² weights of the 3×3 places round that of S×S pixels, for S of ``STRIDE``."""
    offset = (torch.arange(STRIDE) + 0.5) / STRIDE - 0.5  # of pixels from the centre of a place
    line = torch.stack([(-offset).clamp(0), 1 - offset.abs(), offset.clamp(0)])
    return torch.einsum("ar,bs->abrs", line, line).reshape(9, STRIDE**2)
