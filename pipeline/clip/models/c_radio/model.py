"""Builds C-RADIO v3 with its language adaptor, from the files of NVlabs, of the Hub, or of timm.

The last ones do not hold the adaptor's head, which is then a file of its own.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BILINEAR
from pipeline.clip.models.c_radio.siglip2 import SIGLIP2, build_text_tower, tokenize
from pipeline.clip.text import class_embeddings
from pipeline.clip.weights.checkpoint import read_weights
from pipeline.clip.weights.layouts import (
    Weights,
    build_vision_transformer,
    count_blocks,
    part_of,
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
    image = build_vision_transformer(
        tower,
        release,
        stretch={**BILINEAR, "align_corners": release.align_corners},
        covers_square=True,
        temperature=100.0,  # RADSeg's
        norm_after=Adaptor(head),  # there is no norm after the last block
    )
    size = len(image.norm_after(image.class_token))  # a RuntimeError tells of another width

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        # Gigabytes, which are not kept.
        text = build_text_tower(files["text"], release.text_heads, size, device)
        numbers_of = partial(tokenize, files["tokenizer"], text.context_length, text.vocab_size)
        return class_embeddings(text, numbers_of, names, prompts)

    return ImageTextModel(image, embed_names)


def read_image(files: Mapping[str, Path], device: str) -> tuple[Weights, Weights]:
    """Reads the image tower, by DINOv2's names, and the head of the language adaptor.

    The class tokens of other teachers become registers. A UserError refuses a damaged file, and a
    KeyError or ValueError another model.
    """
    path = files["image"]
    weights, number = read_weights(path), 0
    if tower := part_of(weights, "base_model.") or part_of(weights, "radio_model.model."):
        parts = ("cls_token.token", "pos_embed", "embedder.weight")
        tokens, positions, kernel = (tower[f"patch_generator.{part}"] for part in parts)
        side = round((kernel.shape[1] / 3) ** 0.5)
        kernel = kernel.unflatten(1, (3, side, side))
        name, number = _find_adaptor(files)
        places = f"_heads.{name}.", f"_heads.{number}.", f"radio_model.adaptors.{name}.head_mlp."
        head = next(filter(None, (part_of(weights, place) for place in places)), {})
    else:  # of timm, where no file says which class token is the adaptor's: the first is taken
        tower, head = weights, read_weights(files["head"]) if "head" in files else {}
        tokens = torch.cat([tower["cls_token"], tower["reg_token"]], 1)[0]
        positions, kernel = tower["pos_embed"], tower["patch_embed.proj.weight"]
        first = next((name for name in head if name.endswith("fc1.weight")), "")
        head = part_of(head, first.removesuffix("fc1.weight"))
    if not head or "norm.weight" in tower:
        raise ValueError("no head of a language adaptor, or a norm after the last block")
    named = {
        "patch_embed.proj.bias": kernel.new_zeros(len(kernel)),
        **tower,
        "patch_embed.proj.weight": kernel,
        "pos_embed": F.pad(positions, (0, 0, 1, 0)),  # class tokens have none
        "cls_token": tokens[None, number : number + 1],
        "register_tokens": torch.cat([tokens[:number], tokens[number + 1 :]])[None],
    }
    return to_floats(named, path, device), to_floats(head, files.get("head", path), device)


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
