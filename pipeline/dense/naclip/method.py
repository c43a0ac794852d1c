"""NACLIP: patches attend to their neighbourhood (Hajimiri et al., WACV 2025, section 3)."""

import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.shared_pass import SharedPass
from pipeline.dense.method import DenseMethod

PATCH = 16
"""The patch size in pixels of the CLIP for which constants in patches were chosen."""


class NaClip(DenseMethod):
    """NACLIP: the attention of block L is softmax(KKᵀ/√d + ω); no residual connection, no MLP."""

    def patch_features(self, encoder: ClipEncoder, shared_pass: SharedPass) -> torch.Tensor:
        """Returns the embeddings of patches, B×N×E float32."""
        _, _, key, value = shared_pass.last_block_input
        sigma = self.options.sigma * PATCH / encoder.patch_size
        omega = encoder.patches(neighbourhood(shared_pass.grid, sigma, encoder.tower.prefix))
        attended = encoder.attend(encoder.patches(key), key, value, omega.to(key.device))
        return encoder.embed(encoder.last_block.attention_output(attended))


def neighbourhood(grid: tuple[int, int], sigma: float, prefix: int = 1) -> torch.Tensor:
    """Returns ω: exp(−((Δrow)² + (Δcolumn)²)/(2σ²)) between patches, T×T float32, not normalised.

    It is 0 from and to the ``prefix`` tokens before the patches; σ is in patches of the grid, h×w.
    """
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
    places = torch.cartesian_prod(rows, columns)
    squared = (places[:, None] - places).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (prefix, 0, prefix, 0))
