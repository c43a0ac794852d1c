"""Builds DINO from its own file, or from timm's, whose names are the same but for registers."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.clip.image_text import Release
from pipeline.clip.image_tower import AS_DINO, BICUBIC, ImageTower
from pipeline.clip.models.dinov2 import IMAGENET
from pipeline.clip.weights.layouts import (
    Weights,
    build_vision_transformer,
    count_blocks,
    part_of,
    read_floats,
    refuse_other,
)


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTower:
    """Builds the image tower from its file, on a device; "meta" stands for shapes alone."""
    weights = _read(files["weights"], device)
    width, found = weights["cls_token"].shape[-1], _dimensions(weights)
    if release.name:
        refuse_other(release, width=width, **found._asdict())
    elif width % release.head_width:
        raise ValueError(f"width {width}, not a multiple of {release.head_width}")
    release = replace(release, dimensions=found, heads=width // release.head_width)
    more = {"stretch": BICUBIC} if "register_tokens" in weights else AS_DINO
    return build_vision_transformer(weights, release, temperature=1.0, **more)


def read_about(files: Mapping[str, Path]) -> tuple[Dimensions, Pretraining]:
    """Returns what a file tells."""
    return _dimensions(_read(files["weights"], "meta")), Pretraining(IMAGENET, quick_gelu=False)


def _read(path: Path, device: str) -> dict[str, Any]:
    """Reads weights by DINO's names; timm's positions of DINOv2 leave the class token out."""
    weights = read_floats(path, device)
    if "reg_token" in weights:
        weights["register_tokens"] = weights.pop("reg_token")
        weights["pos_embed"] = F.pad(weights["pos_embed"], (0, 0, 1, 0))
    return weights


def _dimensions(weights: Weights) -> Dimensions:
    patch = weights["patch_embed.proj.weight"].shape[-1]
    side = math.isqrt(weights["pos_embed"].shape[1] - weights["cls_token"].shape[1])
    if not (depth := count_blocks(part_of(weights, "blocks."))):
        raise ValueError("no blocks")
    return Dimensions(depth, patch, patch * side)
