"""Builds dino.txt: DINOv2, two blocks of a head over all its tokens, and a text tower."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from open_clip.transformer import TextTransformer
from torch import nn

from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BICUBIC
from pipeline.clip.text import class_embeddings, load_tokenizer
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
    image, head = (read_floats(files[part], device) for part in ("image", "head"))
    tower = build_vision_transformer(
        image, release, stretch=BICUBIC, temperature=_TEMPERATURE, joins_patches=True
    )
    blocks = rename(part_of(head, "block_list."), DINOV2)
    refuse_other(release, width=len(head["ln_final.weight"]))
    added = build_blocks(blocks, release.heads, epsilon=1e-5, activation=SwiGlu)
    tower.blocks[-1].norm_after = tower.norm_after
    norm = build_norm(head, "ln_final", 1e-5)
    tower = replace(tower, blocks=[*tower.blocks, *added], norm_after=norm)
    text = build_text_tower(read_floats(files["text"], device), release.text_heads)
    return ImageTextModel(tower, partial(class_embeddings, text, load_tokenizer(None)))


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
