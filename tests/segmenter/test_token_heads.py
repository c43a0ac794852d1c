"""Decoders of frozen towers: WeCLIP's against the released code's arrays, and the others' forms."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.segmenter.mmseg import import_mmseg

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


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@torch.no_grad()
def test_the_decoder_computes_what_the_released_code_does(golden, weclip):
    maps = golden["tokens"][:BLOCKS, :, 1:].mT.unflatten(-1, golden["grid"].tolist())
    found = weclip.projected(maps).mT.unflatten(-1, golden["grid"].tolist())
    assert_close(found, golden["projected"])
    assert_close(weclip.fused(maps), golden["fused"])
    decoded = weclip.layers(golden["fused"].flatten(2).mT)
    assert_close(decoded.mT.unflatten(-1, golden["grid"].tolist()), golden["decoded"])
    assert_close(weclip(maps), golden["logits"])
    assert torch.equal(weclip(maps).argmax(1), golden["logits"].argmax(1))


@pytest.mark.parametrize(
    ("mistake", "array"),
    [
        ("last", "projected"),
        ("reversed", "projected"),
        ("class token", "projected"),
        ("columns", "projected"),
        ("layers", "decoded"),
        ("heads", "decoded"),
        ("gelu", "decoded"),
        ("epsilon", "decoded"),
    ],
)
@torch.no_grad()
def test_each_mistake_shows(golden, weclip, mistake, array):
    grid, tokens, head = golden["grid"].tolist(), golden["tokens"], deepcopy(weclip)
    chosen = tokens[1:] if mistake == "last" else tokens[:BLOCKS]
    chosen = chosen.flip(0) if mistake == "reversed" else chosen
    patches = chosen[:, :, :-1] if mistake == "class token" else chosen[:, :, 1:]
    maps = patches.mT.unflatten(-1, grid)
    if mistake == "columns":
        maps = patches.mT.unflatten(-1, grid[::-1]).mT
    for block in head.layers:
        block.attn.num_heads, block.attn.head_dim = (4, 8) if mistake == "heads" else (8, 4)
        block.mlp.gelu = nn.GELU() if mistake == "gelu" else block.mlp.gelu
        for norm in (block.ln_1, block.ln_2):
            norm.eps = 1e-6 if mistake == "epsilon" else norm.eps
    head.layers = head.layers[:2] if mistake == "layers" else head.layers
    found = {
        "projected": head.projected(maps).mT.unflatten(-1, grid),
        "decoded": head.layers(golden["fused"].flatten(2).mT).mT.unflatten(-1, grid),
    }[array]
    with pytest.raises(AssertionError):
        assert_close(found, golden[array])


def maps_of(blocks: int, width: int = 48, grid: tuple[int, int] = (5, 7)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(blocks, 2, width, *grid, generator=generator))


@pytest.mark.parametrize(
    ("head", "blocks", "size"),
    [(TokensHead, 3, (20, 28)), (WeclipHead, 3, (5, 7)), (LinearHead, 1, (5, 7))],
)
def test_heads_label_a_grid_and_all_of_them_learns(head, blocks, size):
    torch.manual_seed(0)
    settings = {"num_classes": 4, "norm_cfg": {"type": "BN"}, "in_index": [*range(blocks)]}
    built = head([48] * blocks, channels=32, **settings)
    built.init_weights()
    logits = built(maps_of(blocks))
    assert logits.shape == (2, 4, *size)
    logits.square().sum().backward()
    lacking = [name for name, each in built.named_parameters() if each.grad is None]
    assert not lacking
    # What a batch holds besides changes nothing of an image, in evaluation mode.
    built.eval()
    alone = built([each[:1] for each in maps_of(blocks)])
    torch.testing.assert_close(alone, built(maps_of(blocks))[:1], atol=1e-5, rtol=0)
