"""Attention is the same as computed for CPUs and for GPUs; rows are independent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.clip import attention
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from tests.tiny_clip import build_tiny_clip


def random_heads(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 26, 8, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("rows", "prefix"), [(1, 1), (7, 5), (1000, 1)])
def test_heads_at_once_and_head_by_head_agree(monkeypatch, dtype, tolerance, rows, prefix):
    monkeypatch.setattr(attention, "_CHUNK_WEIGHTS", rows * 26)
    query, key, value = random_heads(dtype)
    attended, mean = attention.head_by_head(query, key, value, prefix)
    expected, expected_mean = attention.all_heads(query, key, value, prefix)
    torch.testing.assert_close(attended, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(mean, expected_mean, atol=tolerance, rtol=0)
    assert mean.shape == (2, 26 - prefix, 26 - prefix)
    assert attended.dtype == dtype and mean.dtype == torch.float32
    none, same = attention.head_by_head(query, key, None, prefix)
    assert none is None
    torch.testing.assert_close(same, mean, atol=0, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("mask", [None, (26, 26), (1, 1, 26, 26), (2, 1, 26, 26)], ids=str)
@pytest.mark.parametrize("many_weights", [1, 10**6])
def test_the_output_is_that_of_fused_attention(monkeypatch, dtype, tolerance, mask, many_weights):
    monkeypatch.setattr(attention, "_MIN_WEIGHTS_BY_HEAD", many_weights)
    query, key, value = random_heads(dtype)
    generator = torch.Generator().manual_seed(6)
    bias = None if mask is None else torch.randn(*mask, generator=generator)
    for asking in (26, 1):
        few = None if bias is None else bias[..., :asking, :]
        heads = [query[:, :, :asking], key, value]
        attended = attention.attend(*heads, few)
        expected = F.scaled_dot_product_attention(*(head.float() for head in heads), attn_mask=few)
        assert attended.dtype == dtype
        torch.testing.assert_close(attended.float(), expected, atol=tolerance, rtol=0)


def test_the_whole_backbone_is_the_same_with_all_heads_at_once(monkeypatch):
    encoder = ClipEncoder(ImageTower.of(build_tiny_clip()))
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    recorded: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        by_head = encoder.backbone(pixels, lambda _, attention: recorded[0].append(attention))
        monkeypatch.setattr(attention, "head_by_head", attention.all_heads)
        at_once = encoder.backbone(pixels, lambda _, attention: recorded[1].append(attention))
    torch.testing.assert_close(by_head.tokens, at_once.tokens, atol=1e-4, rtol=1e-5)
    for ours, theirs in zip(*recorded):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_rows_are_computed_one_after_the_other_on_a_cpu():
    shapes = []

    def work(row: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(row.shape), tuple(other.shape)))
        return row + other

    results = attention.one_by_one(work, torch.arange(3.0)[:, None], torch.ones(3, 1))
    assert results[:, 0].tolist() == [1, 2, 3] and shapes == [((1, 1), (1, 1))] * 3


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_low_precision_is_near_and_keeps_tokens_in_float32(precision):
    clip = build_tiny_clip()
    exact = ClipEncoder(ImageTower.of(clip))
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    recorded: list[torch.Tensor] = []
    with torch.no_grad():
        expected = exact.value_features(exact.backbone(pixels))
        low = ClipEncoder(ImageTower.of(clip), precision=precision)
        inputs = low.backbone(pixels, lambda _, attention: recorded.append(attention))
        features = low.value_features(inputs)
    assert inputs.tokens.dtype == features.dtype == torch.float32
    assert {attention.dtype for attention in recorded} == {torch.float32}
    assert (features * expected).sum(-1).min() > 0.99, "cosines of the same patch"
    assert low.tower.blocks[0].mlp.c_fc.weight.dtype == precision
    assert clip.token_embedding.weight.dtype == torch.float32, "the text tower stays exact"
