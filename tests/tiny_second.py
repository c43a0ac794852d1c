"""Second backbones with few random weights, in files as they are published."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM

from pipeline.clip.second import FrozenSecond
from pipeline.clip.settings import MethodOptions, SecondSettings


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="second-")  # which lives as long as the process


def build_dino(seed: int = 0, patch_size: int = 8) -> torch.nn.Module:
    """Returns timm's vision transformer of width 64 with two blocks; native grid 4×4."""
    torch.manual_seed(seed)
    sizes = {"patch_size": patch_size, "img_size": 4 * patch_size}
    sizes |= {"embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def build_sam(seed: int = 0) -> VisionTransformerSAM:
    """Returns an encoder of SAM's form, of width 48 with four blocks, for squares of 128."""
    torch.manual_seed(seed)
    model = VisionTransformerSAM(
        img_size=128,
        patch_size=16,
        num_classes=0,
        embed_dim=48,
        depth=4,
        num_heads=3,
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1, 3),
        neck_chans=32,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


@cache
def dino_file(patch_size: int = 8) -> Path:
    """Returns the file of :func:`build_dino`."""
    path = Path(_folder().name) / f"dino_{patch_size}.pth"
    torch.save(build_dino(patch_size=patch_size).state_dict(), path)
    return path


@cache
def sam_file() -> Path:
    """Returns the file of :func:`build_sam`, with SAM's names."""
    path, weights = Path(_folder().name) / "sam.pth", build_sam().state_dict()
    named = {f"image_encoder.{k.replace('mlp.fc', 'mlp.lin')}": v for k, v in weights.items()}
    torch.save({**named, "mask_decoder.mask_tokens.weight": torch.zeros(4, 8)}, path)
    return path


def tiny_seconds(options: MethodOptions) -> dict[str, SecondSettings]:
    """Returns small ones in place of those that settings use, by the names of their fields."""
    return {
        name: SecondSettings(None, str(sam_file() if name == "sam" else dino_file()))
        for name in options.seconds()
    }


def frozen(chosen: dict[str, SecondSettings]) -> dict[str, FrozenSecond]:
    """Returns backbones of settings, on the CPU."""
    return {
        name: FrozenSecond(
            (f"cams.{name}.model", f"cams.{name}.checkpoint"),
            "sam_vit_b" if name == "sam" else "dino_vitb8",
            *(each.model, each.checkpoint, "cpu", "fp32"),
        )
        for name, each in chosen.items()
    }
