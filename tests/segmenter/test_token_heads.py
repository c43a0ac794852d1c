"""Decoders of frozen towers: WeCLIP's against the released code's arrays, and the others' forms."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import interpolate

from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.onnx_network import resize_scores
from tests.golden_models import assert_close

import_mmseg()

from pipeline.segmenter.token_heads import LinearHead, TokensHead, WeclipHead  # noqa: E402

BLOCKS = 11  # that WeCLIP reads, of twelve


@pytest.fixture(scope="module")
def golden(golden_folder):
    with np.load(golden_folder / "weclip/golden_weclip.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def weclip(golden_folder) -> WeclipHead:
    """The head with the released names of its weights."""
    head = WeclipHead([48] * BLOCKS, 32, num_classes=5, in_index=[*range(BLOCKS)])
    theirs = load_file(golden_folder / "weclip/weights_weclip.safetensors")
    names = {
        "decoder_fts_fuse.linears_modulelist.": "projections.",
        "decoder_fts_fuse.linear_fuse": "fusion",
        "decoder.transformer.resblocks.": "layers.",
        "decoder.linear_pred": "conv_seg",
        "proj_2.": "2.",
        "proj.": "0.",
    }
    state = {}
    for name, tensor in theirs.items():
        parts = names if "fuse" in name else [*names][2:4]
        for part in parts:
            name = name.replace(part, names[part])
        state[name] = tensor.float()
    head.load_state_dict(state)
    return head.eval()


def compute(head: WeclipHead, golden: dict, maps: torch.Tensor | None = None) -> dict:
    """Returns the arrays of the released code, each from the one before it."""
    grid, masks = golden["grid"].tolist(), golden["masks"]
    if maps is None:
        maps = golden["tokens"][:BLOCKS, :, 1:].mT.unflatten(-1, grid)
    projected = head.projected(maps).mT.unflatten(-1, grid)
    decoded = head.layers(golden["fused"].flatten(2).mT).mT.unflatten(-1, grid)
    enlarged = resize_scores(golden["logits"], masks.shape[1:], head.align_corners)
    return {
        "projected": projected,
        "fused": head.fusion(projected),
        "decoded": decoded,
        "logits": head.conv_seg(decoded),
        "upsampled": enlarged[:, :, ::3, ::3],
    }


@torch.no_grad()
def test_the_decoder_computes_what_the_released_code_does(golden, weclip):
    for name, found in compute(weclip, golden).items():
        assert_close(found, golden[name])
    maps = golden["tokens"][:BLOCKS, :, 1:].mT.unflatten(-1, golden["grid"].tolist())
    assert_close(weclip.fused(maps), golden["fused"])
    assert_close(weclip(maps), golden["logits"])
    assert torch.equal(weclip(maps).argmax(1), golden["logits"].argmax(1))


def of_projections(*order: object) -> Callable[[WeclipHead], None]:
    """Rebuilds every projection from its own layers, by their numbers, and from others."""

    def change(head: WeclipHead) -> None:
        for number, own in enumerate(head.projections):
            layers = [own[part] if isinstance(part, int) else part for part in order]
            head.projections[number] = nn.Sequential(*layers)

    return change


def of_layers(change: Callable[[nn.Module], None]) -> Callable[[WeclipHead], None]:
    return lambda head: [*map(change, head.layers)]


def set_heads(layer: nn.Module) -> None:
    layer.attn.num_heads, layer.attn.head_dim = 4, 8


def set_epsilon(layer: nn.Module) -> None:
    layer.ln_1.eps = layer.ln_2.eps = 1e-6


def exchange_queries_and_keys(layer: nn.Module) -> None:
    for part in (layer.attn.in_proj_weight, layer.attn.in_proj_bias):
        queries, keys, values = part.chunk(3)
        part.copy_(torch.cat([keys, queries, values]))


def leave_out_the_scale(layer: nn.Module) -> None:
    width = len(layer.attn.in_proj_bias) // 3
    for part in (layer.attn.in_proj_weight, layer.attn.in_proj_bias):
        part[:width] *= layer.attn.head_dim**0.5


def norm_after(layer: nn.Module) -> None:
    def forward(tokens: torch.Tensor) -> torch.Tensor:
        tokens = layer.ln_1(tokens + layer.attention(tokens))
        return layer.ln_2(tokens + layer.mlp(tokens))

    layer.forward = forward


def round_the_attention(layer: nn.Module) -> None:
    attend = layer.attention
    layer.attention = lambda *given, **named: attend(*given, **named).half().float()


def interleave(head: WeclipHead) -> None:
    weight = head.fusion.weight.data
    head.fusion.weight.data = weight.unflatten(1, (-1, BLOCKS)).transpose(1, 2).flatten(1, 2)


def norm_at_the_end(head: WeclipHead) -> None:
    head.layers.append(nn.LayerNorm(32))


MISTAKES = {
    "a norm before": ("projected", of_projections(nn.LayerNorm(48), 0, 1, 2)),
    "gelu in the projections": ("projected", of_projections(0, nn.GELU(), 2)),
    "no activation": ("projected", of_projections(0, 2)),
    "a second activation": ("projected", of_projections(0, 1, 2, nn.ReLU())),
    "interleaved": ("fused", interleave),
    "two layers": ("decoded", lambda head: head.layers.pop(-1)),
    "four heads": ("decoded", of_layers(set_heads)),
    "norms after": ("decoded", of_layers(norm_after)),
    "gelu": ("decoded", of_layers(lambda layer: setattr(layer.mlp, "gelu", nn.GELU()))),
    "epsilon": ("decoded", of_layers(set_epsilon)),
    "queries and keys": ("decoded", of_layers(exchange_queries_and_keys)),
    "no scale": ("decoded", of_layers(leave_out_the_scale)),
    "a norm at the end": ("decoded", norm_at_the_end),
    "no transformer": ("logits", lambda head: setattr(head, "layers", nn.Identity())),
    "half": ("logits", of_layers(round_the_attention)),
    "corners": ("upsampled", lambda head: setattr(head, "align_corners", True)),
}
OF_TOKENS = {
    "the last blocks": lambda tokens: tokens[1:, :, 1:],
    "reversed": lambda tokens: tokens[:BLOCKS, :, 1:].flip(0),
    "the class token": lambda tokens: tokens[:BLOCKS, :, :-1],
}


@pytest.mark.parametrize("mistake", [*MISTAKES, *OF_TOKENS, "columns"])
@torch.no_grad()
def test_each_mistake_shows(golden, weclip, mistake):
    head, grid = deepcopy(weclip), golden["grid"].tolist()
    array, change = MISTAKES.get(mistake, ("projected", lambda _: None))
    change(head)
    choose = OF_TOKENS.get(mistake, lambda tokens: tokens[:BLOCKS, :, 1:])
    maps = choose(golden["tokens"]).mT.unflatten(-1, grid)
    if mistake == "columns":
        maps = maps.flatten(-2).unflatten(-1, grid[::-1]).mT
    with pytest.raises(AssertionError):
        assert_close(compute(head, golden, maps)[array], golden[array])


@torch.no_grad()
def test_a_mistake_of_enlarging_shows(golden):
    enlarged = interpolate(golden["logits"], golden["masks"].shape[1:])
    with pytest.raises(AssertionError):
        assert_close(enlarged[:, :, ::3, ::3], golden["upsampled"])


def maps_of(blocks: int, width: int = 48, grid: tuple[int, int] = (5, 7)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(blocks, 2, width, *grid, generator=generator))


@pytest.mark.parametrize(
    ("head", "blocks", "size"),
    [(TokensHead, 3, (80, 112)), (WeclipHead, 3, (5, 7)), (LinearHead, 1, (5, 7))],
)
def test_heads_label_a_grid_and_all_of_them_learns(head, blocks, size):
    torch.manual_seed(0)
    settings = {"num_classes": 4, "norm_cfg": {"type": "BN"}, "in_index": [*range(blocks)]}
    built = head([48] * blocks, channels=32, **settings)
    built.init_weights()
    maps = maps_of(blocks)
    if head is TokensHead:
        maps.append(torch.rand(2, 3, *size))  # the image
    logits = built(maps)
    assert logits.shape == (2, 4, *size)
    logits.square().sum().backward()
    lacking = [name for name, each in built.named_parameters() if each.grad is None]
    assert not lacking
    # What a batch holds besides changes nothing of an image, in evaluation mode.
    built.eval()
    alone = built([each[:1] for each in maps])
    torch.testing.assert_close(alone, built(maps)[:1], atol=1e-5, rtol=0)
