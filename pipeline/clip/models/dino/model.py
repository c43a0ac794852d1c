"""Builds DINO, DINOv2 and DINOv3 from their own files, or from those of timm or transformers."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.clip.image_text import Release
from pipeline.clip.image_tower import AS_DINO, BICUBIC, ImageTower
from pipeline.clip.models.dino import IMAGENET
from pipeline.clip.weights.layouts import (
    TRANSFORMERS_DINOV2,
    Weights,
    build_vision_transformer,
    count_blocks,
    part_of,
    read_floats,
    refuse_other,
    rename,
)

_NAMES = (
    *TRANSFORMERS_DINOV2,
    (r"^(reg_token|storage_tokens)$", "register_tokens"),
    (r"\bgamma_([12])$", r"ls\1.gamma"),
    (r"\battn\.([qkv])_bias$", r"attn.\1.bias"),
    (r"\bmlp\.(fc1_g|gate_proj)\.", "mlp.w1."),
    (r"\bmlp\.fc1_x\.", "mlp.w2."),
    (r"\bmlp\.down_proj\.", "mlp.fc2."),
)
"""From the names of DINOv3, and of timm and transformers, to DINOv2's."""


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTower:
    """Builds the image tower from its file, on a device; "meta" stands for shapes alone."""
    weights = read_dino(files["weights"], device, release.head_width)
    width, found = weights["cls_token"].shape[-1], _dimensions(weights)
    if release.name:
        refuse_other(release, width=width, **found._asdict())
    elif width % release.head_width:
        raise ValueError(f"width {width}, not a multiple of {release.head_width}")
    else:
        release = replace(release, gated=any("mlp.c_fc." in name for name in weights))
    release = replace(release, dimensions=found, heads=width // release.head_width)
    more = {"stretch": BICUBIC} if "register_tokens" in weights else AS_DINO
    return build_vision_transformer(weights, release, temperature=1.0, **more)


def read_about(files: Mapping[str, Path]) -> tuple[Dimensions, Pretraining]:
    """Returns what a file tells."""
    return _dimensions(read_dino(files["weights"], "meta")), Pretraining(IMAGENET, quick_gelu=False)


def read_dino(path: Path, device: str, head_width: int = 64) -> dict[str, torch.Tensor]:
    """Reads weights by DINOv2's names. A DINOv3 gets positions of 0, and periods if it has none."""
    weights = read_floats(path, device)
    is_timm, is_gated = "reg_token" in weights, any("mlp.gate_proj." in name for name in weights)
    for name in [*weights]:
        if name.endswith("qkv.bias_mask"):  # that of keys counts as 0
            weights[name.removesuffix("_mask")] *= weights.pop(name)
        elif re.search(r"\bq_(proj\.)?bias$", name):  # which keys lack
            weights.setdefault(name.replace("q_", "k_"), torch.zeros_like(weights[name]))
    up = (r"\bmlp\.up_proj\.", "mlp.w2." if is_gated else "mlp.fc1.")
    weights = rename(weights, _NAMES, [up])
    if "register_tokens" in weights and "pos_embed" not in weights:
        weights["pos_embed"] = torch.zeros_like(weights["cls_token"]).tile(1, 1 + 14**2, 1)
        exponents = torch.arange(head_width // 4, device=device) * 4 / head_width
        weights.setdefault("rope_embed.periods", 100**exponents)
    elif is_timm:  # whose positions leave the class token out
        weights["pos_embed"] = F.pad(weights["pos_embed"], (0, 0, 1, 0))
    return weights


def _dimensions(weights: Weights) -> Dimensions:
    patch = weights["patch_embed.proj.weight"].shape[-1]
    side = math.isqrt(weights["pos_embed"].shape[1] - weights["cls_token"].shape[1])
    if not (depth := count_blocks(part_of(weights, "blocks."))):
        raise ValueError("no blocks")
    return Dimensions(depth, patch, patch * side)
