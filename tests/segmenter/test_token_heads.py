"""Decoders of frozen towers: WeCLIP's against the released code's arrays, and the others' forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

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


@torch.no_grad()
def test_the_decoder_computes_what_the_released_code_does(golden, weclip):
    grid = golden["grid"].tolist()
    maps = golden["tokens"][:BLOCKS, :, 1:].mT.unflatten(-1, grid)
    projected = weclip.projected(maps).mT.unflatten(-1, grid)
    assert_close(projected, golden["projected"])
    assert_close(weclip.fusion(projected), golden["fused"])
    assert_close(weclip.fused(maps), golden["fused"])
    decoded = weclip.layers(golden["fused"].flatten(2).mT).mT.unflatten(-1, grid)
    assert_close(decoded, golden["decoded"])
    assert_close(weclip.conv_seg(decoded), golden["logits"])
    enlarged = resize_scores(golden["logits"], golden["masks"].shape[1:], weclip.align_corners)
    assert_close(enlarged[:, :, ::3, ::3], golden["upsampled"])
    assert_close(weclip(maps), golden["logits"])
    assert torch.equal(weclip(maps).argmax(1), golden["logits"].argmax(1))


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
