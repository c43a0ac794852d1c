"""ProxyCLIP: patches attend to those that a second backbone finds alike (Lan et al., ECCV 2024)."""

import math

import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.second_encoder import unit
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod, NameEmbeddings

_MULTIPLE = 56
"""Pixels to multiples of which the authors complete windows: of 14 and of 8."""


class ProxyClip(DenseMethod):
    """ProxyCLIP: a second backbone says which patches attend to each other in block L.

    No residual connection, no MLP.
    """

    def grid(self, shared_pass: SharedPass) -> tuple[int, int]:
        """Returns the second backbone's grid."""
        return self.seconds["second"].encoder.grid(shared_pass.pixels)

    def multiple(self, patch_size: int) -> int:
        """Returns the authors' multiple, which both backbones divide into patches."""
        return math.lcm(_MULTIPLE, patch_size, self.seconds["second"].encoder.patch_size)

    def patch_features(
        self, encoder: ClipEncoder, shared_pass: SharedPass, names: NameEmbeddings | None = None
    ) -> torch.Tensor:
        """Returns the embeddings of patches of the second backbone's grid, B×M×E float32."""
        features = self.features(encoder, shared_pass)
        values = self.values(encoder, shared_pass)
        return encoder.embed(self.attended(encoder, self.attention(features), values))

    def features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the second backbone's features of patches, B×M×C float32, each of length 1."""
        second = self.seconds["second"].encoder
        return unit(second.tokens(shared_pass.pixels, encoder.normalisation))

    def values(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the values of block L on the second backbone's grid, B×M×D float32."""
        value = encoder.patches(shared_pass.last_block_input.value)
        channels = value.mT.flatten(1, 2).unflatten(-1, shared_pass.grid).float()
        grid = self.seconds["second"].encoder.grid(shared_pass.pixels)
        return F.interpolate(channels, grid, mode="bilinear").flatten(2).mT

    def attended(
        self, encoder: ClipEncoder, attention: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Returns what block L adds to patches, B×M×D float32, by one attention of all heads."""
        block = encoder.last_block
        found = (attention @ values).to(block.precision).unflatten(-1, (block.heads, -1))
        return block.attention_output(found.transpose(1, 2))

    def attention(self, features: torch.Tensor, mean: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the attention between patches, B×M×M, by their features, each of length 1.

        The ``mean`` of similarities is that of each image unless it is given. Where all
        similarities are alike, a patch attends to itself; the authors' code fails.
        """
        similarity = features @ features.mT
        if mean is None:
            mean = similarity.mean((1, 2), keepdim=True)
        logits = self.options.sharpness * (similarity - self.options.shift * mean)
        others = ~torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
        return logits.masked_fill((logits < 0) & others, float("-inf")).softmax(-1)
