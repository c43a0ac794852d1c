"""Builds SAM's image encoder from its own file, or from timm's, and attends to an image."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer_sam import (
    Attention,
    VisionTransformerSAM,
    checkpoint_filter_fn,
    get_decomposed_rel_pos_bias,
)
from torch import nn
from torchvision.transforms.functional import normalize

from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.clip.image_text import Release
from pipeline.clip.models.dino import IMAGENET
from pipeline.clip.weights.layouts import Weights, count_blocks, part_of, read_floats, refuse_other
from pipeline.files.weight_files import Uninitialised

_TABLE = "blocks.0.attn.rel_pos_h"  # which no other vision transformer has


class SamEncoder:
    """SAM's image encoder, frozen.

    Attributes:
        blocks: of the transformer.
    """

    def __init__(self, network: VisionTransformerSAM, side: int):
        """Takes a network, and the side of the squares that it sees, in pixels."""
        self._network, self._side = network, side
        self.blocks = network.blocks
        for block in self.blocks[:-1]:
            if not block.window_size:
                block.attn = HeadByHead(block.attn)

    @torch.no_grad()
    def last_attention(
        self, image: np.ndarray
    ) -> tuple[tuple[int, int], torch.Tensor, Iterator[torch.Tensor]]:
        """Attends to an image, H×W×3 uint8, RGB, whose longer side is scaled to the square.

        Returns:
            The patch grid h, w of the image; the values of its patches in the last block,
            heads×N×d float32; and the attention of each head between them, N×N float32, computed
            one by one, since each takes 64 MB.
        """
        network, side = self._network, self._side
        scale = side / max(image.shape[:2])
        tall, wide = (max(1, int(length * scale + 0.5)) for length in image.shape[:2])
        resized = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        pixels = normalize(pixels, *IMAGENET).to(network.pos_embed.device)
        tokens = network.patch_embed(F.pad(pixels, (0, side - wide, 0, side - tall))[None])
        tokens = tokens + network.pos_embed
        *blocks, last = network.blocks
        for block in blocks:
            tokens = block(tokens)
        patch = network.patch_embed.patch_size[0]
        rows, columns = grid = max(1, tall // patch), max(1, wide // patch)
        query, key, value = split(last.attn, last.norm1(tokens))

        places = torch.arange(len(value[0]), device=value.device).unflatten(0, tokens.shape[1:3])
        inside = places[:rows, :columns].flatten()

        def heads() -> Iterator[torch.Tensor]:
            for of_query, of_key in zip(query, key):
                logits = _logits(last.attn, of_query, of_key, tokens.shape[1:3])
                yield logits[inside].softmax(-1)[:, inside]

        return grid, value[:, inside], heads()


class HeadByHead(nn.Module):
    """Computes the global attention of a block one head at a time, in a twelfth of the memory."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.attention = attention

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes and returns B×h×w×D; B is 1."""
        attention, grid = self.attention, tokens.shape[1:3]
        found = [
            _logits(attention, query, key, grid).softmax(-1) @ value
            for query, key, value in zip(*split(attention, tokens))
        ]
        return attention.proj(torch.cat(found, -1)).unflatten(0, (1, *grid))


def split(attention: Attention, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns queries, keys and values of tokens, 1×h×w×D: heads×N×d each."""
    projected = attention.qkv(tokens.flatten(1, 2)[0])
    return projected.unflatten(-1, (3, attention.num_heads, -1)).permute(1, 2, 0, 3).unbind()


def _logits(
    attention: Attention, query: torch.Tensor, key: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Returns the attention logits of a head, N×N, with relative positions."""
    positions = attention.rel_pos_h, attention.rel_pos_w
    bias = get_decomposed_rel_pos_bias(query[None], *positions, grid, grid)[0]
    return torch.addmm(bias, query * attention.scale, key.mT)


def build(release: Release, files: Mapping[str, Path], device: str) -> SamEncoder:
    """Builds the encoder from its file, on a device; "meta" stands for shapes alone."""
    weights = _read(files["weights"], device)
    depth, patch, side = found = _dimensions(weights)
    width, channels = weights["pos_embed"].shape[-1], weights[_TABLE].shape[1]
    if release.dimensions:
        refuse_other(release, width=width, head_width=channels, **found._asdict())
    # The table of a block is of all distances that there are: in windows, or in the whole square.
    reach = [len(weights[f"blocks.{number}.attn.rel_pos_h"]) // 2 + 1 for number in range(depth)]
    everywhere = [number for number, length in enumerate(reach) if length == side // patch]
    with torch.device(device), Uninitialised():
        network = VisionTransformerSAM(
            img_size=side,
            patch_size=patch,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=width // channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=min(reach),
            global_attn_indexes=tuple(everywhere),
            neck_chans=0,
        )
    network.neck = nn.Identity()
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("neck.")})
    return SamEncoder(network.eval().requires_grad_(False), side)


def read_about(files: Mapping[str, Path]) -> tuple[Dimensions, Pretraining]:
    """Returns what a file tells."""
    return _dimensions(_read(files["weights"], "meta")), Pretraining(IMAGENET, quick_gelu=False)


def _read(path: Path, device: str) -> dict[str, torch.Tensor]:
    return checkpoint_filter_fn(read_floats(path, device), None)


def _dimensions(weights: Weights) -> Dimensions:
    patch = weights["patch_embed.proj.weight"].shape[-1]
    depth = count_blocks(part_of(weights, "blocks."))
    if _TABLE not in weights:
        raise ValueError("no relative positions")
    return Dimensions(depth, patch, patch * weights["pos_embed"].shape[1])
