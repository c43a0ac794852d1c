"""Builds dino.txt: DINOv2, two blocks of a head over all its tokens, and a text tower."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from open_clip.transformer import TextTransformer
from torch import nn

from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BICUBIC
from pipeline.clip.layouts import (
    DINOV2,
    SwiGlu,
    Weights,
    build_blocks,
    build_norm,
    build_vision_transformer,
    part_of,
    read_floats,
    rename,
)
from pipeline.clip.text import join_names, join_prompts, load_tokenizer, prompt_features
from pipeline.datasets.vocabulary import Names
from pipeline.files.weight_files import Uninitialised

_TEMPERATURE = 1 / 0.07
"""The initial value: the hub's loader reads no trained one."""

_TEXT = (
    (r"^backbone\.", ""),
    (r"^blocks\.", "transformer.resblocks."),
    (r"\battention_norm\.", "ln_1."),
    (r"\battention\.qkv\.", "attn.in_proj_"),
    (r"\battention\.proj\.", "attn.out_proj."),
    (r"\bffn_norm\.", "ln_2."),
    (r"\bfeed_forward\.fc1\.", "mlp.c_fc."),
    (r"\bfeed_forward\.fc2\.", "mlp.c_proj."),
)
"""From the names of the text tower to open_clip's."""


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model from its files, on a device."""
    image, head = (read_floats(files[part], device) for part in ("image", "head"))
    tower = build_vision_transformer(
        image, release, stretch=BICUBIC, temperature=_TEMPERATURE, joins_patches=True
    )
    blocks = rename(part_of(head, "block_list."), DINOV2)
    for name in [name for name in blocks if ".mlp.w1." in name]:  # gate and value, side by side
        both = [blocks.pop(name), blocks.pop(name.replace(".w1.", ".w2."))]
        blocks[name.replace(".w1.", ".c_fc.")] = torch.cat(both)
    added = build_blocks(blocks, release.heads, epsilon=1e-5, activation=SwiGlu)
    tower.blocks[-1].norm_after = tower.norm_after
    tower = replace(
        tower, blocks=[*tower.blocks, *added], norm_after=build_norm(head, "ln_final", 1e-5)
    )
    text = build_text_tower(read_floats(files["text"], device), release.text_heads)

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        flat = [name for group in names for name in group]
        vectors = prompt_features(text, load_tokenizer(None), flat, prompts)
        return join_names(join_prompts(vectors), names)

    return ImageTextModel(tower, embed_names)


def build_text_tower(weights: Weights, heads: int) -> nn.Module:
    """Builds the text tower, whose tokens are those of CLIP, with a GELU and no bias of Q, K, V."""
    given = rename(part_of(weights, "backbone."), _TEXT)
    given["text_projection"] = weights["head.linear_projection.weight"].T
    context, width = given["positional_embedding"].shape
    blocks = part_of(given, "transformer.resblocks.")
    layers = 1 + max(int(name.partition(".")[0]) for name in blocks)
    for number in range(layers):
        bias = given["ln_final.weight"].new_zeros(3 * width)
        given[f"transformer.resblocks.{number}.attn.in_proj_bias"] = bias
    with bias.device, Uninitialised():
        tower = TextTransformer(
            context_length=context,
            vocab_size=len(given["token_embedding.weight"]),
            width=width,
            heads=heads,
            layers=layers,
            output_dim=given["text_projection"].shape[1],
        )
    tower.load_state_dict(given)
    return tower.eval().requires_grad_(False)
