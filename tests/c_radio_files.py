"""Files of C-RADIO in each of its layouts, with the same weights."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.clip.weights.layouts import part_of

TEACHERS = [
    {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "use_summary": True},
    {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384", "use_summary": True},
    {"name": "sam", "type": "sam", "model": "vit-h", "use_summary": False},
]
NUMBER = 1
"""Of the language adaptor's teacher."""

Weights = Mapping[str, torch.Tensor]


def tokens_of(weights: Weights, number: int = 0) -> torch.Tensor:
    """Returns the tokens before the patches, T×D, with the adaptor's class token at a place."""
    first, *others = torch.cat([weights["vit.cls_token"], weights["vit.reg_token"]], 1)[0]
    return torch.stack([*others[:number], first, *others[number:]])


def timm(weights: Weights, folder: Path) -> dict[str, Path]:
    """Writes the image tower as timm does, and the head; returns both files."""
    files = {"image": folder / "timm.safetensors", "head": folder / "head.safetensors"}
    save_file(part_of(weights, "vit."), files["image"])
    save_file({k: v for k, v in weights.items() if k.startswith("head.")}, files["head"])
    return files


def tower_of_nvlabs(weights: Weights) -> dict[str, torch.Tensor]:
    """Returns the image tower by NVlabs' names, with the embedding of patches as a linear layer."""
    vit = part_of(weights, "vit.")
    named = {name: tensor for name, tensor in vit.items() if name.startswith("blocks.")}
    return named | {
        "patch_generator.embedder.weight": vit["patch_embed.proj.weight"].flatten(1),
        "patch_generator.pos_embed": vit["pos_embed"],
        "patch_generator.cls_token.token": tokens_of(weights, NUMBER),
    }


def nvlabs(
    weights: Weights,
    folder: Path,
    teachers: list[dict] | None = None,
    head: str = f"_heads.{NUMBER}.",
    averaged: bool = False,
) -> dict[str, Path]:
    """Writes a training's checkpoint of NVlabs; returns its file."""
    state = {f"module.base_model.{k}": v for k, v in tower_of_nvlabs(weights).items()}
    state |= {f"module.{head}{k}": v for k, v in part_of(weights, "head.").items()}
    state |= {
        "module._heads.0.fc1.weight": torch.ones(3, 3),  # of another teacher
        "module._feature_projections.1.fc1.weight": torch.ones(3, 3),
        "module.input_conditioner.norm_mean": torch.ones(3, 1, 1),
    }
    states = {"state_dict": state}
    if averaged:
        states = {"state_dict_ema": state, "state_dict": {k: v + 1 for k, v in state.items()}}
    args = Namespace(teachers=TEACHERS if teachers is None else teachers, lr=1e-3, amp=True)
    path = folder / "c-radio_v3-b_half.pth.tar"
    torch.save({"epoch": 3, "arch": "vit", "args": args, **states}, path)
    return {"image": path}


def hub(weights: Weights, folder: Path, teachers: list[dict] | None = None) -> dict[str, Path]:
    """Writes what a folder of Hugging Face has; returns both files."""
    state = {f"radio_model.model.{k}": v for k, v in tower_of_nvlabs(weights).items()}
    place = "radio_model.adaptors.siglip2-g.head_mlp."
    state |= {place + k: v for k, v in part_of(weights, "head.").items()}
    state["radio_model.input_conditioner.norm_mean"] = torch.ones(3, 1, 1)
    config = {
        "args": {"teachers": TEACHERS if teachers is None else teachers},
        "adaptor_configs": {"siglip2-g": {"head_idx": NUMBER}},
    }
    files = {"image": folder / "model.safetensors", "config": folder / "config.json"}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, files["image"])
    files["config"].write_text(json.dumps(config))
    return files


def read_words(path: Path, length: int) -> Callable[[str], list[int]]:
    """Stands for a tokenizer: the numbers of letters of words, and 1 at the end."""
    return lambda sentence: [*map(len, sentence.split()), 1][:length]


LAYOUTS = {"timm": timm, "nvlabs": nvlabs, "hub": hub}
