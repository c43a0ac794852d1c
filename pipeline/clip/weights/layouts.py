"""Vision transformers built from state dicts of other layouts than open_clip's.

Weights are renamed and put into open_clip's blocks, so that our :class:`~pipeline.clip.block.Block`
computes every image tower.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import LayerNorm, ResidualAttentionBlock
from torch import nn

from pipeline.clip.image_text import Release
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.rotary import Rotary
from pipeline.clip.weights.checkpoint import read_weights
from pipeline.files.weight_files import Uninitialised, check_finite, refuse_quantised

Weights = Mapping[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]
"""Regular expressions of names, and what takes their place; the rules apply one after the other."""

DINOV2: Rules = (
    (r"\bnorm([12])\.", r"ln_\1."),
    (r"\battn\.qkv\.", "attn.in_proj_"),
    (r"\battn\.proj\.", "attn.out_proj."),
    (r"\bls([12])\.gamma$", r"ls_\1.gamma"),
    (r"\bmlp\.(fc1|w12)\.", "mlp.c_fc."),
    (r"\bmlp\.(fc2|w3)\.", "mlp.c_proj."),
)
"""From the names of DINOv2, which TIPSv2 shares, to open_clip's names of a block."""

TRANSFORMERS_DINOV2: Rules = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^((encoder|model)\.)?layer\.", "blocks."),
    (r"\battention\.o_proj\.", "attn.proj."),
    (r"\battention\.([qkv])_proj\.", r"attn.\1."),
    (r"\blayer_scale([12])\.lambda1$", r"ls\1.gamma"),
)
"""From the names of DINOv2, DINOv3 and TIPSv2 in Hugging Face's transformers to their own."""

TRANSFORMERS_CLIP: Rules = (
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\bself_attn\.([qkv])_proj\.", r"attn.\1."),
    (r"\bself_attn\.out_proj\.", "attn.out_proj."),
    (r"\blayer_norm([12])\.", r"ln_\1."),
    (r"\bmlp\.fc1\.", "mlp.c_fc."),
    (r"\bmlp\.fc2\.", "mlp.c_proj."),
)
"""From the names of a text tower, or of CLIP, in transformers to open_clip's."""

_JOINED = {
    "attn.in_proj_": ("attn.q.", "attn.k.", "attn.v."),
    "mlp.c_fc.": ("mlp.w1.", "mlp.w2."),  # gate and value
}


class SwiGlu(nn.Module):
    """The activation of gated layers: the SiLU of the first half times the second half."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Halves the last dimension."""
        gate, value = inputs.chunk(2, -1)
        return nn.functional.silu(gate) * value


def part_of(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    """Returns the weights below a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def rename(weights: Weights, *several: Rules) -> dict[str, torch.Tensor]:
    """Renames weights; those of one product that lie apart are joined, side by side.

    A projection of queries, keys and values without a bias gets one of 0.
    """
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in (rule for rules in several for rule in rules):
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for joined, (first, *others) in _JOINED.items():
        for name in [name for name in renamed if first in name]:
            parts = [renamed.pop(name.replace(first, part)) for part in (first, *others)]
            renamed[name.replace(first, joined)] = torch.cat(parts)
    for name in [name for name in renamed if name.endswith("attn.in_proj_weight")]:
        bias = renamed[name].new_zeros(len(renamed[name]))
        renamed.setdefault(name.removesuffix("weight") + "bias", bias)
    return renamed


def count_blocks(weights: Weights) -> int:
    """Returns the number of blocks from weights named after the number of their block."""
    return 1 + max((int(name.partition(".")[0]) for name in weights), default=-1)


def build_blocks(
    weights: Weights, heads: int, *, epsilon: float, activation: Callable[[], nn.Module] = nn.GELU
) -> list[ResidualAttentionBlock]:
    """Builds blocks from weights with open_clip's names, each after the number of its block.

    A KeyError or a RuntimeError tells that weights are missing or do not fit.
    """
    blocks = []
    for number in range(count_blocks(weights)):
        given = part_of(weights, f"{number}.")
        width, hidden = given["mlp.c_proj.weight"].shape
        expanded = len(given["mlp.c_fc.weight"])
        kinds = {hidden: "plain", 2 * hidden: "gated"}
        kind, expected = kinds.get(expanded), "gated" if activation is SwiGlu else "plain"
        if kind != expected:
            raise ValueError(f"{kind} MLPs, not {expected} ones")
        scale = 1.0 if "ls_1.gamma" in given else None
        with given["ln_1.weight"].device, Uninitialised():
            norm = partial(LayerNorm, eps=epsilon)
            block = ResidualAttentionBlock(width, heads, 1.0, scale, norm_layer=norm)
            block.mlp.c_fc = nn.Linear(width, expanded)
            block.mlp.c_proj = nn.Linear(hidden, width)
            block.mlp.gelu = activation()
        block.load_state_dict(given)
        blocks.append(block.eval().requires_grad_(False))
    return blocks


def build_norm(weights: Weights, name: str, epsilon: float) -> nn.Module:
    """Builds the layer norm of a name."""
    norm = LayerNorm(len(weights[f"{name}.weight"]), eps=epsilon, device="meta")
    norm.load_state_dict(part_of(weights, f"{name}."), assign=True)
    return norm.requires_grad_(False)


def read_floats(path: Path, device: str) -> dict[str, torch.Tensor]:
    """Reads a state dict in float32; a UserError if it is damaged, quantised or not finite.

    The device "meta" stands for shapes alone.
    """
    return to_floats(read_weights(path, "meta" if device == "meta" else "cpu"), path, device)


def to_floats(weights: Weights, path: Path, device: str) -> dict[str, torch.Tensor]:
    """Returns weights of a file in float32 on a device; raises as :func:`read_floats` does."""
    refuse_quantised(weights, path)
    if device != "meta":
        check_finite(weights, path)
    return {name: tensor.float().to(device) for name, tensor in weights.items()}


def refuse_other(release: Release, **found: int) -> None:
    """Raises a ValueError if weights have another width, or other traits, than a release says."""
    says = vars(release) | {"width": release.heads * release.head_width}
    says |= release.dimensions._asdict() if release.dimensions else {}
    if wrong := [f"{k} {v}, not {says[k]}" for k, v in found.items() if says[k] not in (v, None)]:
        raise ValueError("; ".join(wrong).replace("_", " "))


def build_vision_transformer(weights: Weights, release: Release, **more: Any) -> ImageTower:  # noqa: ANN401
    """Builds the image tower of a release from weights with DINOv2's names.

    One with periods of rotary positions is a DINOv3. The other arguments are those of
    :class:`~pipeline.clip.image_tower.ImageTower`. Raises as :func:`build_blocks` does.
    """
    patches = part_of(weights, "patch_embed.proj.")
    width, size = len(patches["weight"]), release.dimensions.patch_size
    embedding = nn.Conv2d(3, width, size, size, device="meta").requires_grad_(False)
    embedding.load_state_dict(patches, assign=True)
    blocks = part_of(rename(weights, DINOV2), "blocks.")
    positions, periods = weights["pos_embed"][0], weights.get("rope_embed.periods")
    epsilon, activation = 1e-6 if periods is None else 1e-5, SwiGlu if release.gated else nn.GELU
    blocks = build_blocks(blocks, release.heads, epsilon=epsilon, activation=activation)
    if periods is not None:
        rotary = Rotary(periods, size)
        for block in blocks:
            block.rotary = rotary
    if "norm_after" not in more:
        more["norm_after"] = build_norm(weights, "norm", epsilon)
    registers = weights["register_tokens"][0] if "register_tokens" in weights else None
    refuse_other(release, width=width, registers=0 if registers is None else len(registers))
    is_square = math.isqrt(len(positions) - 1) ** 2 == len(positions) - 1
    if not is_square or registers is not None and registers.shape[1:] != (width,):
        raise ValueError("positions are not of a square, or registers not of the width")
    return ImageTower(
        normalisation=release.normalisation,
        native_size=release.dimensions.native_size,
        patch_embedding=embedding,
        class_token=weights["cls_token"][0, 0],
        registers=registers,
        positions=positions,
        norm_before=nn.Identity(),
        blocks=blocks,
        joins_patches=release.joins_patches,
        **more,
    )
