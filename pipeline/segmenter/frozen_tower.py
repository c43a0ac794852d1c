"""A frozen vision transformer as a backbone of mmsegmentation; importing this module registers it.

It is built from a description, plain values that :func:`describe` reads off an image tower. So a
checkpoint holds all that it needs, and no file of the tower.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from torch import nn
from torch.nn import functional

from pipeline.clip.block import Block
from pipeline.clip.image_tower import Embedding, ImageTower
from pipeline.clip.rotary import Rotary
from pipeline.clip.weights.layouts import SwiGlu
from pipeline.segmenter.openmmlab import importable
from pipeline.segmenter.weight_layouts import Fit

with importable():
    from mmseg.registry import MODELS

_ACTIVATIONS = {kind.__name__: kind for kind in (nn.GELU, QuickGELU, SwiGlu)}


def describe(tower: ImageTower) -> dict[str, Any]:
    """Returns what :class:`FrozenTower` is built from."""
    periods = _periods(tower)
    return {
        "width": len(tower.class_token),
        "patch_size": tower.patch_size,
        "patch_bias": tower.patch_embedding.bias is not None,
        "positions": len(tower.positions),
        "registers": tower.prefix - 1,
        "stretch": tower.stretch,
        "offset": tower.offset,
        "covers_square": tower.covers_square,
        "norm_before": getattr(tower.norm_before, "eps", None),
        "blocks": [*map(_describe_block, tower.blocks)],
        "periods": None if periods is None else len(periods),
    }


def _periods(tower: ImageTower) -> torch.Tensor | None:
    """Returns the periods of rotary positions, which all turned blocks share; perhaps none."""
    return next((block.rotary.periods for block in tower.blocks if hasattr(block, "rotary")), None)


def _describe_block(block: ResidualAttentionBlock) -> dict[str, Any]:
    return {
        "heads": block.attn.num_heads,
        "expanded": block.mlp.c_fc.out_features,
        "hidden": block.mlp.c_proj.in_features,
        "activation": type(block.mlp.gelu).__name__,
        "epsilon": block.ln_1.eps,
        "scaled": not isinstance(block.ls_1, nn.Identity),
        "norm_after": getattr(getattr(block, "norm_after", None), "eps", None),
        "rotary": hasattr(block, "rotary"),
    }


def _norm(width: int, epsilon: float | None) -> nn.Module:
    return nn.Identity() if epsilon is None else LayerNorm(width, eps=epsilon)


def _build_block(width: int, described: Mapping[str, Any]) -> ResidualAttentionBlock:
    norm = partial(LayerNorm, eps=described["epsilon"])
    scale = 1.0 if described["scaled"] else None
    block = ResidualAttentionBlock(width, described["heads"], 1.0, scale, norm_layer=norm)
    block.mlp.c_fc = nn.Linear(width, described["expanded"])
    block.mlp.gelu = _ACTIVATIONS[described["activation"]]()
    block.mlp.c_proj = nn.Linear(described["hidden"], width)
    block.norm_after = _norm(width, described["norm_after"])
    block.is_turned = described["rotary"]
    return block


@MODELS.register_module()
class FrozenTower(nn.Module, Embedding):
    """A vision transformer whose tokens after some blocks are feature maps.

    Args:
        tower: what :func:`describe` returns.
        out_indices: the blocks whose tokens are returned, counted from 0.
        enlarge: the factor by which the patch grid is finer than that of the images.
    """

    def __init__(
        self, tower: Mapping[str, Any], out_indices: Sequence[int], enlarge: float = 1.0
    ) -> None:
        super().__init__()
        width, patch = tower["width"], tower["patch_size"]
        self.out_indices, self.enlarge = (*out_indices,), enlarge
        self.stretch, self.offset = dict(tower["stretch"]), tower["offset"]
        self.patch_size, self.covers_square = patch, tower["covers_square"]
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=tower["patch_bias"])
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(tower["positions"], width))
        self.registers = nn.Parameter(torch.zeros(tower["registers"], width))
        self.register_buffer("periods", tower["periods"] and torch.zeros(tower["periods"]))
        self.norm_before = _norm(width, tower["norm_before"])
        used = tower["blocks"][: max(out_indices) + 1]
        self.blocks = nn.ModuleList(_build_block(width, each) for each in used)

    def load_tower(self, tower: ImageTower, name: str, licence: str = "not known") -> Fit:
        """Copies the weights of the tower that was described, and returns what has this name."""
        parts = {"patch_embedding": tower.patch_embedding, "norm_before": tower.norm_before}
        parts["blocks"] = nn.ModuleList(tower.blocks[: len(self.blocks)])
        state = nn.ModuleDict(parts).state_dict()
        state |= {"class_token": tower.class_token, "positions": tower.positions}
        state["registers"] = self.registers if tower.registers is None else tower.registers
        if self.periods is not None:
            state["periods"] = _periods(tower)
        self.load_state_dict(state)
        about = "frozen", len(state), len(state), (), ()
        return Fit(name, *about, seen_masks=False, licence=licence)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns B×D×h×w of each block, of B×3×H×W; sides are multiples of the patch size."""
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        if self.enlarge != 1:
            rows, columns = (int(2 * self.enlarge) * side // 2 for side in (rows, columns))
            size = rows * self.patch_size, columns * self.patch_size
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        patches, positions = self.patch_embedding(images), self.position_embedding(rows, columns)
        tokens, prefix = self.first_tokens(patches, positions), 1 + len(self.registers)
        rotary = None if self.periods is None else Rotary(self.periods, self.patch_size)
        maps = []
        for number, each in enumerate(self.blocks):
            block = Block(each, packed=False)
            block.rotary = rotary if each.is_turned else None
            attended = functional.scaled_dot_product_attention(
                *block.project(block.ln_1(tokens), images.shape[-2:])
            )
            tokens = block.finish(tokens, attended)
            if number in self.out_indices:
                maps.append(tokens[:, prefix:].mT.unflatten(-1, (rows, columns)))
        return tuple(maps)
