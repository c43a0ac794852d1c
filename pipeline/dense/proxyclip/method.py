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
        second, pixels = self.seconds["second"].encoder, shared_pass.pixels
        attention = self.attention(unit(second.tokens(pixels, encoder.normalisation)))
        value = encoder.patches(shared_pass.last_block_input.value)
        channels = value.mT.flatten(1, 2).unflatten(-1, shared_pass.grid).float()
        enlarged = F.interpolate(channels, self.grid(shared_pass), mode="bilinear").flatten(2).mT
        attended = (attention @ enlarged).to(value.dtype)
        heads = attended.unflatten(-1, (value.shape[1], -1)).transpose(1, 2)
        return encoder.embed(encoder.last_block.attention_output(heads))

    def attention(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the attention between patches, B×M×M, by their features, each of length 1.

        Where all similarities are alike, a patch attends to itself; the authors' code fails.
        """
        similarity = features @ features.mT
        mean = similarity.mean((1, 2), keepdim=True)
        logits = self.options.sharpness * (similarity - self.options.shift * mean)
        others = ~torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
        return logits.masked_fill((logits < 0) & others, float("-inf")).softmax(-1)
