"""Builds C-RADIO v3 with its language adaptor, from the files of NVlabs, of the Hub, or of timm.

The last ones do not hold the adaptor's head, which is then a file of its own. A second backbone is
the image tower alone, and needs no head.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BILINEAR, ImageTower
from pipeline.clip.models.c_radio.siglip2 import SIGLIP2, build_text_tower, tokenize
from pipeline.clip.text import class_embeddings
from pipeline.clip.weights.checkpoint import read_weights
from pipeline.clip.weights.layouts import (
    Weights,
    build_vision_transformer,
    count_blocks,
    part_of,
    refuse_other,
    to_floats,
)
from pipeline.datasets.vocabulary import Names
from pipeline.errors import shown
from pipeline.files.weight_files import read_weights_file


class Adaptor(nn.Module):
    """The head that turns tokens, …×D float32, into embeddings, …×E, of any length."""

    def __init__(self, weights: Weights):
        """Builds it; a KeyError or a RuntimeError tells that weights are missing or do not fit."""
        super().__init__()
        (hidden, width), last = weights["fc1.weight"].shape, len(weights["final.2.weight"])
        sizes = [*[hidden] * count_blocks(part_of(weights, "blocks.")), last]
        with torch.device("meta"):
            parts = ((nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, size)) for size in sizes)
            *blocks, self.final = (nn.Sequential(*each) for each in parts)
            self.fc1, self.blocks = nn.Linear(width, hidden), nn.ModuleList(blocks)
        self.load_state_dict(weights, assign=True)
        self.eval().requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Computes the first layer, the residual ones and the last."""
        tokens = self.fc1(tokens)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.final(tokens)


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model of a release from its files, on a device."""
    tower, head = read_image(files, device)
    # The temperature is RADSeg's.
    image = _build_tower(tower, release, temperature=100.0, norm_after=Adaptor(head))
    size = len(image.norm_after(image.class_token))  # a RuntimeError tells of another width

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        # Gigabytes, which are not kept.
        text = build_text_tower(files["text"], release.text_heads, size, device)
        numbers_of = partial(tokenize, files["tokenizer"], text.context_length, text.vocab_size)
        return class_embeddings(text, numbers_of, names, prompts)

    return ImageTextModel(image, embed_names)


def build_alone(release: Release, files: Mapping[str, Path], device: str) -> ImageTower:
    """Builds the image tower alone, whatever adaptors there are; "meta" stands for shapes alone."""
    path = files["weights"]
    found = read_weights(path, "meta" if device == "meta" else "cpu")
    weights = to_floats(_by_dinov2s_names(found), path, device)
    width, patch_size = weights["patch_embed.proj.weight"].shape[::3]
    depth = count_blocks(part_of(weights, "blocks."))
    refuse_other(release, width=width, depth=depth, patch_size=patch_size)
    norm, places = nn.Identity(), ("_feature_normalizer.", "radio_model.feature_normalizer.")
    if last := next(filter(None, (part_of(found, place) for place in places)), None):
        last = to_floats(last, path, device)  # (x − mean)·txᵀ of patches after the last block
        norm = nn.Linear(width, width, device="meta").requires_grad_(False)
        shift = -last["tx"] @ last["mean"]
        norm.load_state_dict({"weight": last["tx"], "bias": shift}, assign=True)
    return _build_tower(weights, release, temperature=1.0, norm_after=norm)


def _build_tower(weights: Weights, release: Release, **more: Any) -> ImageTower:  # noqa: ANN401
    """Builds the image tower, after whose last block there is no layer norm."""
    stretch = {**BILINEAR, "align_corners": release.align_corners}
    return build_vision_transformer(weights, release, stretch=stretch, covers_square=True, **more)


def read_image(files: Mapping[str, Path], device: str) -> tuple[Weights, Weights]:
    """Reads the image tower, by DINOv2's names, and the head of the language adaptor.

    A UserError refuses a damaged file, and a KeyError or ValueError another model.
    """
    path = files["image"]
    weights, number = read_weights(path), 0
    if _tower_of_nvidia(weights):
        name, number = _find_adaptor(files)
        places = f"_heads.{name}.", f"_heads.{number}.", f"radio_model.adaptors.{name}.head_mlp."
        head = next(filter(None, (part_of(weights, place) for place in places)), {})
    else:  # of timm, where no file says which class token is the adaptor's: the first is taken
        head = read_weights(files["head"]) if "head" in files else {}
        first = next((name for name in head if name.endswith("fc1.weight")), "")
        head = part_of(head, first.removesuffix("fc1.weight"))
    if not head:
        raise ValueError("no head of a language adaptor")
    tower = to_floats(_by_dinov2s_names(weights, number), path, device)
    return tower, to_floats(head, files.get("head", path), device)


def _tower_of_nvidia(weights: Weights) -> dict[str, torch.Tensor]:
    """Returns the image tower of a file of NVlabs or of the Hub; nothing of timm's."""
    return part_of(weights, "base_model.") or part_of(weights, "radio_model.model.")


def _by_dinov2s_names(weights: Weights, number: int = 0) -> dict[str, torch.Tensor]:
    """Returns the image tower, with the class token of a number; those of others are registers."""
    if tower := _tower_of_nvidia(weights):
        parts = ("cls_token.token", "pos_embed", "embedder.weight")
        tokens, positions, kernel = (tower[f"patch_generator.{part}"] for part in parts)
        side = round((kernel.shape[1] / 3) ** 0.5)
        kernel = kernel.unflatten(1, (3, side, side))
    else:
        tower = weights
        tokens = torch.cat([tower["cls_token"], tower["reg_token"]], 1)[0]
        positions, kernel = tower["pos_embed"], tower["patch_embed.proj.weight"]
    if "norm.weight" in tower:
        raise ValueError("a norm after the last block")
    return {
        "patch_embed.proj.bias": kernel.new_zeros(len(kernel)),
        # As timm does: transformers once renamed whatever was called gamma.
        **{name.replace(".grandma", ".gamma"): tensor for name, tensor in tower.items()},
        "patch_embed.proj.weight": kernel,
        "pos_embed": F.pad(positions, (0, 0, 1, 0)),  # class tokens have none
        "cls_token": tokens[None, number : number + 1],
        "register_tokens": torch.cat([tokens[:number], tokens[number + 1 :]])[None],
    }


def _find_adaptor(files: Mapping[str, Path]) -> tuple[str, int]:
    """Returns the name of the language adaptor, and the number of its class token and head."""
    path, heads = files["image"], {}
    if path.suffix == ".safetensors":
        config = json.loads(files["config"].read_bytes())
        teachers, heads = config["args"]["teachers"], config.get("adaptor_configs", {})
    else:
        teachers = read_weights_file(path, "meta")["args"].teachers
    for number, teacher in enumerate(teachers):
        if teacher["type"] == "siglip2":
            if teacher["model"] != SIGLIP2:
                raise ValueError(f"an adaptor to {shown(teacher['model'])}, not to {SIGLIP2}")
            return teacher["name"], heads.get(teacher["name"], {}).get("head_idx", number)
    raise ValueError(f"no adaptor to {SIGLIP2} among its teachers")
