"""Logits that move to the edges of an image; importing this module registers the segmentor."""

import torch
from torch import nn
from torch.nn import functional

from pipeline.segmenter.network import resize_scores
from pipeline.segmenter.openmmlab import importable
from pipeline.segmenter.settings import STRIDE

with importable():
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS

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


class ConvexUpsampling(nn.Module):
    """Enlarges logits as RAFT does its flow (Teed and Deng, ECCV 2020, section 3.3).

    Each pixel becomes a convex combination of the 3×3 places round its own, whose weights follow
    from the image and from features, from which no gradient returns. They are the same for all
    classes, so that no texture can become a class. At first they are nearly those of bilinear
    interpolation.

    Args:
        features: the number of channels of the features.
        channels: those of what is computed from the image.
    """

    def __init__(self, features: int, channels: int = 64) -> None:
        super().__init__()
        widths = (3, channels // 2, 2), (channels // 2, channels, 2), (channels, channels, 1)
        self.stem = nn.Sequential(*(_convolution(*each) for each in widths))
        self.guide = _convolution(features + channels, channels)
        self.weights = nn.Conv2d(channels, 9 * STRIDE**2, 1)
        nn.init.zeros_(self.weights.weight)
        self.weights.bias.data = bilinear_weights().add(_LEAST).log().flatten()

    def forward(
        self, logits: torch.Tensor, features: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Returns N×C×H×W of logits, N×C×h×w, features, N×D×h×w, and the image, N×3×H×W.

        All three cover the same picture. H and W are multiples of ``STRIDE``, whatever h and w.
        """
        rows, columns = (side // STRIDE for side in image.shape[2:])
        logits, features = (
            resize_scores(each, (rows, columns), align_corners=False)
            for each in (logits, features.detach())
        )
        guide = self.guide(torch.cat([features, self.stem(image)], 1))
        weights = self.weights(guide).float().unflatten(1, (9, -1)).softmax(1)
        around = functional.pad(logits, [1] * 4, mode="replicate")
        near = (around[..., i : i + rows, j : j + columns] for i in range(3) for j in range(3))
        pixels = sum(each[:, :, None] * weights[:, None, k] for k, each in enumerate(near))
        return functional.pixel_shuffle(pixels.flatten(1, 2), STRIDE)


def bilinear_weights() -> torch.Tensor:
    """Returns 9×S² weights of the 3×3 places round that of S×S pixels, for S of ``STRIDE``."""
    offset = (torch.arange(STRIDE) + 0.5) / STRIDE - 0.5  # of pixels from the centre of a place
    line = torch.stack([(-offset).clamp(0), 1 - offset.abs(), offset.clamp(0)])
    return torch.einsum("ar,bs->abrs", line, line).reshape(9, STRIDE**2)
