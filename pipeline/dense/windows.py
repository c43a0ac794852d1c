"""The authors' position embedding (protocol of SCLIP, NACLIP and others)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder


def scaled_positions(encoder: ClipEncoder, rows: int, columns: int) -> torch.Tensor:
    """Returns a patch grid's position embedding as the authors' code interpolates it, (1+N)×D.

    Bicubic; as in the released code, the sampling positions follow a factor of (h + 0.1)/h₀, and
    not h/h₀.
    """
    embedding, native = encoder.visual.positional_embedding, encoder.visual.grid_size
    if (rows, columns) == tuple(native):
        return embedding
    grid = embedding[1:].unflatten(0, native).permute(2, 0, 1).unsqueeze(0)
    factors = ((rows + 0.1) / native[0], (columns + 0.1) / native[1])
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:1], grid[0].flatten(1).mT])
