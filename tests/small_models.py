"""Weights of small image-text models, drawn at random, with the names of their releases."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

WIDTH = 16


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Draws weights of some shapes; those of norms and scales are near 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, shape in shapes.items():
        near_one = re.search(r"(norm\w*|ln_\w+)\.weight$|gamma$", name)
        scale = 0.1 if near_one or len(shape) < 2 else shape[-1] ** -0.5
        drawn[name] = scale * torch.randn(shape, generator=generator) + bool(near_one)
    return drawn


def block(prefix: str, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a block with DINOv2's names."""
    shapes = {}
    for name, rows, columns in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", 4 * width, width),
        ("mlp.fc2", width, 4 * width),
    ):
        shapes |= {f"{prefix}{name}.weight": (rows, columns), f"{prefix}{name}.bias": (rows,)}
    for name in ("norm1", "norm2"):
        shapes |= {f"{prefix}{name}.{part}": (width,) for part in ("weight", "bias")}
    return shapes | {f"{prefix}ls{number}.gamma": (width,) for number in (1, 2)}


def dinov2(
    depth: int = 3, width: int = WIDTH, registers: int = 4, side: int = 4
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a vision transformer of DINOv2, or TIPSv2, with patches of 14."""
    shapes = {
        "cls_token": (1, 1, width),
        "mask_token": (1, width),
        "register_tokens": (1, registers, width),
        "pos_embed": (1, 1 + side**2, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for number in range(depth):
        shapes |= block(f"blocks.{number}.", width)
    return shapes


def tips_text(depth: int = 2, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of TIPSv2's text tower."""
    shapes = {"token_embedding.weight": (150, width)}
    shapes |= {f"ln_final.{part}": (width,) for part in ("weight", "bias")}
    for number in range(depth):
        prefix = f"transformer.resblocks.{number}."
        shapes |= {
            f"{prefix}attn.in_proj_weight": (3 * width, width),
            f"{prefix}attn.in_proj_bias": (3 * width,),
            f"{prefix}attn.out_proj.weight": (width, width),
            f"{prefix}attn.out_proj.bias": (width,),
            f"{prefix}mlp.c_fc.weight": (4 * width, width),
            f"{prefix}mlp.c_fc.bias": (4 * width,),
            f"{prefix}mlp.c_proj.weight": (width, 4 * width),
            f"{prefix}mlp.c_proj.bias": (width,),
        }
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{prefix}{norm}.{part}": (width,) for part in ("weight", "bias")}
    return shapes


def tips(seed: int = 0, depth: int = 3, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Draws TIPSv2's weights in the layout of its release."""
    shapes = dinov2(depth, width, registers=1)
    image = {f"vision_encoder.{name}": shape for name, shape in shapes.items()}
    text = {f"text_encoder.{name}": shape for name, shape in tips_text(width=width).items()}
    return draw(image | text, seed)


def talk2dino(
    text_width: int, seed: int = 0, depth: int = 3, width: int = WIDTH
) -> dict[str, dict[str, torch.Tensor]]:
    """Draws the weights of Talk2DINO's image tower and of its head, for text vectors of a width."""
    head = {
        "linear_layer.weight": (width, text_width),
        "linear_layer.bias": (width,),
        "hidden_layers.0.weight": (width, width),
        "hidden_layers.0.bias": (width,),
    }
    return {"image": draw(dinov2(depth, width), seed), "head": draw(head, seed + 1)}


def c_radio(
    seed: int = 0, depth: int = 3, side: int = 4, width: int = WIDTH
) -> dict[str, torch.Tensor]:
    """Draws C-RADIO's weights by timm's names, below "vit.", and those of its head, to 2·width."""
    shapes = {
        "vit.cls_token": (1, 1, width),
        "vit.reg_token": (1, 5, width),
        "vit.pos_embed": (1, side**2, width),
        "vit.patch_embed.proj.weight": (width, 3, 16, 16),
        "head.fc1.weight": (24, width),
        "head.fc1.bias": (24,),
    }
    for number in range(depth):
        blocks = block(f"vit.blocks.{number}.", width)
        shapes |= {name: shape for name, shape in blocks.items() if "gamma" not in name}
    for place, size in (("blocks.0", 24), ("blocks.1", 24), ("final", 2 * width)):
        shapes |= {f"head.{place}.0.weight": (24,), f"head.{place}.0.bias": (24,)}
        shapes |= {f"head.{place}.2.weight": (size, 24), f"head.{place}.2.bias": (size,)}
    return draw(shapes, seed)


def siglip2_text(size: int, width: int = 8, vocabulary: int = 90) -> dict[str, torch.Tensor]:
    """Draws a text tower of SigLIP 2 by open_clip's names, beside which an image tower lies."""
    shapes = {
        "token_embedding.weight": (vocabulary, width),
        "positional_embedding": (8, width),
        "text_projection.weight": (size, width),
        "text_projection.bias": (size,),
        **{f"ln_final.{part}": (width,) for part in ("weight", "bias")},
    }
    hidden = 89  # whose ratio to the width is not exact
    for number in range(2):
        prefix = f"transformer.resblocks.{number}."
        for name, shape in (
            ("attn.in_proj_", (3 * width, width)),
            ("attn.out_proj.", (width, width)),
            ("mlp.c_fc.", (hidden, width)),
            ("mlp.c_proj.", (width, hidden)),
        ):
            shapes |= {f"{prefix}{name}weight": shape, f"{prefix}{name}bias": shape[:1]}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{prefix}{norm}.{part}": (width,) for part in ("weight", "bias")}
    drawn = draw({f"text.{name}": shape for name, shape in shapes.items()}, seed=7)
    image = {"visual.trunk.pos_embed": torch.full((1, 4), torch.nan)}
    return drawn | image | {"logit_scale": torch.ones(1)}


def dinotxt(
    seed: int = 0, depth: int = 3, width: int = WIDTH, text_width: int = 8
) -> dict[str, dict[str, torch.Tensor]]:
    """Draws the weights of dino.txt; its text tower has the vocabulary of CLIP."""
    head = {f"ln_final.{part}": (width,) for part in ("weight", "bias")}
    for number in range(2):
        prefix = f"block_list.{number}."
        shapes = block(prefix, width)
        for name in ("attn.qkv.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"):
            del shapes[prefix + name]
        del shapes[f"{prefix}mlp.fc2.bias"]
        for name, size in (("w1", (64, width)), ("w2", (64, width)), ("w3", (width, 64))):
            shapes |= {f"{prefix}mlp.{name}.weight": size, f"{prefix}mlp.{name}.bias": size[:1]}
        head |= shapes
    text = {
        "backbone.token_embedding.weight": (49408, text_width),
        "backbone.positional_embedding": (77, text_width),
        "head.linear_projection.weight": (2 * width, text_width),
    }
    text |= {f"backbone.ln_final.{part}": (text_width,) for part in ("weight", "bias")}
    for number in range(2):
        for name, shape in block(f"backbone.blocks.{number}.", text_width).items():
            if not name.endswith(("gamma", "qkv.bias")):
                renamed = name.replace("attn.", "attention.").replace("mlp.", "feed_forward.")
                renamed = renamed.replace("norm1", "attention_norm").replace("norm2", "ffn_norm")
                text[renamed] = shape
    return {
        "image": draw(dinov2(depth, width), seed),
        "head": draw(head, seed + 1),
        "text": draw(text, seed + 2),
    }


def dinov3(
    seed: int = 0, depth: int = 3, width: int = WIDTH, head_width: int = 8
) -> dict[str, torch.Tensor]:
    """Draws the weights of DINOv3 by their released names, with plain MLPs."""
    shapes = dinov2(depth, width)
    del shapes["pos_embed"]
    shapes["storage_tokens"] = shapes.pop("register_tokens")
    shapes["patch_embed.proj.weight"] = (width, 3, 16, 16)
    for number in range(depth):
        shapes[f"blocks.{number}.attn.qkv.bias_mask"] = (3 * width,)
    shapes["rope_embed.periods"] = (head_width // 4,)
    drawn = draw(shapes, seed)
    if drawn is shapes:
        return drawn
    for number in range(depth):
        drawn[f"blocks.{number}.attn.qkv.bias_mask"] = torch.tensor([1.0, 0, 1]).repeat_interleave(
            width
        )
    exponents = torch.arange(head_width // 4) * 4 / head_width
    return drawn | {"rope_embed.periods": (100**exponents).bfloat16().float()}


def dinotxt3(
    seed: int = 0, depth: int = 3, width: int = WIDTH, text_width: int = 8, head_width: int = 8
) -> dict[str, dict[str, torch.Tensor]]:
    """Draws the weights of dino.txt on DINOv3, of which one file holds head and text tower."""
    parts, rest = dinotxt(seed, depth, width, text_width), draw({"logit_scale": (1,)}, seed)
    for name, tensor in parts["head"].items():
        rest[f"visual_model.head.{name.replace('block_list', 'blocks')}"] = tensor
    rest |= {f"text_model.{name}": tensor for name, tensor in parts["text"].items()}
    return {"image": dinov3(seed, depth, width, head_width), "head": rest}
