"""ProxyCLIP: patches attend to those that a second backbone finds alike (Lan et al., ECCV 2024)."""

import torch

from pipeline.clip.attention import attention_to_alike, one_by_one
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.second_encoder import unit
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.on_second_grid import OnSecondGrid


class ProxyClip(OnSecondGrid):
    """ProxyCLIP: a second backbone says which patches attend to each other in block L.

    No residual connection, no MLP.
    """

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches of the second backbone's grid, B×M×E float32."""
        features = self.features(encoder, shared_pass)
        values = self.values(encoder, shared_pass)

        def embed(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            return encoder.embed(self.attended(encoder, self.attention(features), values))

        return one_by_one(embed, features, values)

    def features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the second backbone's features of patches, B×M×C float32, each of length 1."""
        return unit(self.second.tokens(shared_pass.pixels, encoder.normalisation))

    def values(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the values of block L on the second backbone's grid, B×M×D float32."""
        value, grid = shared_pass.last_block_input.value, self.second.grid(shared_pass.pixels)
        return self.fine_values(encoder, shared_pass, value, grid)

    def attention(self, features: torch.Tensor, mean: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the attention between patches, B×M×M, by their features, each of length 1.

        The ``mean`` of similarities is that of each image unless it is given. Where all
        similarities are alike, a patch attends to itself; the authors' code fails.
        """
        similarity = features @ features.mT
        if mean is None:
            mean = similarity.mean((1, 2), keepdim=True)
        logits = similarity.sub_(self.options.shift * mean).mul_(self.options.sharpness)
        return attention_to_alike(logits)
