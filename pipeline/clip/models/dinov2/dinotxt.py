"""Builds dino.txt: a ViT, two blocks of a head over all its tokens, and a text tower."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from open_clip.transformer import TextTransformer
from torch import nn

from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BICUBIC
from pipeline.clip.models.dino.model import read_dino
from pipeline.clip.text import join_names, join_prompts, load_tokenizer, prompt_features
from pipeline.clip.weights.layouts import (
    DINOV2,
    SwiGlu,
    Weights,
    build_blocks,
    build_norm,
    build_vision_transformer,
    count_blocks,
    part_of,
    read_floats,
    refuse_other,
    rename,
)
from pipeline.datasets.vocabulary import Names
from pipeline.files.weight_files import Uninitialised

_TEMPERATURE = 1 / 0.07
"""The initial value: the hub's loader reads no trained one."""

_TEXT = (
    (r"^backbone\.", ""),
    (r"^blocks\.", "transformer.resblocks."),
    (r"\battention_norm\.", "norm1."),
    (r"\battention\.", "attn."),
    (r"\bffn_norm\.", "norm2."),
    (r"\bfeed_forward\.", "mlp."),
)
"""From the names of the text tower to open_clip's, and within a block to DINOv2's."""


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model from its files, on a device."""
    image, head, text = (read_floats(files[part], device) for part in ("image", "head", "text"))
    head = {name.replace("block_list.", "blocks."): tensor for name, tensor in head.items()}
    return _join(release, image, head, text, _TEMPERATURE)


def build_of_dinov3(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model on DINOv3 from its files, of which one holds the head and the text tower."""
    image, rest = read_dino(files["image"], device), read_floats(files["head"], device)
    parts = part_of(rest, "visual_model.head."), part_of(rest, "text_model.")
    scale = rest["logit_scale"].exp()
    return _join(release, image, *parts, 1.0 if scale.is_meta else float(scale))


def _join(
    release: Release, image: Weights, head: Weights, text: Weights, temperature: float
) -> ImageTextModel:
    tower = build_vision_transformer(image, release, stretch=BICUBIC, temperature=temperature)
    blocks = rename(part_of(head, "blocks."), DINOV2)
    refuse_other(release, width=len(head["ln_final.weight"]))
    added = build_blocks(blocks, release.heads, epsilon=1e-5, activation=SwiGlu)
    tower.blocks[-1].norm_after = tower.norm_after
    norm = build_norm(head, "ln_final", 1e-5)
    tower = replace(tower, blocks=[*tower.blocks, *added], norm_after=norm)
    text_tower = build_text_tower(text, release.text_heads)

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        flat = [name for group in names for name in group]
        vectors = prompt_features(text_tower, load_tokenizer(None), flat, prompts)
        # The notebook of DINOv3 halves them before their mean.
        parts = vectors, vectors.chunk(2, -1)[1]
        return torch.cat([join_names(join_prompts(part), names) for part in parts], 1)

    return ImageTextModel(tower, embed_names)


def build_text_tower(weights: Weights, heads: int) -> nn.Module:
    """Builds the text tower, whose tokens are those of CLIP, with a GELU and no bias of Q, K, V."""
    given = rename(part_of(weights, "backbone."), _TEXT, DINOV2)
    given["text_projection"] = weights["head.linear_projection.weight"].T
    context, width = given["positional_embedding"].shape
    with given["text_projection"].device, Uninitialised():
        tower = TextTransformer(
            context_length=context,
            vocab_size=len(given["token_embedding.weight"]),
            width=width,
            heads=heads,
            layers=count_blocks(part_of(given, "transformer.resblocks.")),
            output_dim=given["text_projection"].shape[1],
        )
    tower.load_state_dict(given)
    return tower.eval().requires_grad_(False)
