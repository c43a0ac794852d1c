"""A CLIP with few random weights."""

from __future__ import annotations

import numpy as np
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg


def build_tiny_clip(
    seed: int = 0, *, layers: int = 4, patch_size: int = 16, head_width: int = 64, grid: int = 4
) -> CLIP:
    """Returns a CLIP with few random weights: ViT of width 64, whose native grid is a square."""
    torch.manual_seed(seed)
    clip = CLIP(
        embed_dim=32,
        vision_cfg=CLIPVisionCfg(
            layers=layers,
            width=64,
            patch_size=patch_size,
            image_size=grid * patch_size,
            head_width=head_width,
        ),
        text_cfg=CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2),
        quick_gelu=True,
    )
    # Fresh weights are so small that all classes score alike; larger ones tell them apart.
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(2.0 if "visual" in name else 4.0)
        clip.logit_scale.fill_(np.log(50.0))
    return clip.eval().requires_grad_(False)
