"""What our formulas do with registers, against plain loops over open_clip's own modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pipeline.cams.gradcam import normalise, softmax_gradcam
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import BICUBIC, ImageTower
from pipeline.clip.weights.layouts import build_vision_transformer
from tests import small_models

GRID = (3, 5)


@pytest.fixture
def tower() -> ImageTower:
    weights = small_models.draw(small_models.dinov2(), 5)
    release = replace(
        releases()["talk2dino_b14"], dimensions=Dimensions(3, 14, 56), heads=2, head_width=8
    )
    return build_vision_transformer(weights, release, stretch=BICUBIC, temperature=20.0)


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 3, 14 * GRID[0], 14 * GRID[1], generator=generator)


@torch.no_grad()
def plain_tokens(tower: ImageTower, pixels: torch.Tensor, mask: torch.Tensor | None = None):
    """Runs all blocks as open_clip does; returns what enters each, the end, and the attentions."""
    tokens = ClipEncoder(tower).embed_patches(pixels)
    seen, attentions = [], []
    for block in tower.blocks:
        seen.append(tokens)
        normed = block.ln_1(tokens)
        attended, weights = block.attn(normed, normed, normed, need_weights=True, attn_mask=mask)
        tokens = tokens + block.ls_1(attended)
        tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        attentions.append(weights)
    return seen, tokens, attentions


def test_attention_between_patches_leaves_registers_out(tower, pixels):
    found = []
    with torch.no_grad():
        ClipEncoder(tower).backbone(pixels, lambda number, attention: found.append(attention))
    for ours, theirs in zip(found, plain_tokens(tower, pixels)[2], strict=True):
        torch.testing.assert_close(ours, theirs[:, 5:, 5:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("joins", [False, True])
@torch.no_grad()
def test_a_masked_image_keeps_its_registers(tower, pixels, joins):
    tower = replace(tower, joins_patches=joins)
    inside = torch.zeros(1, *GRID, dtype=torch.bool)
    inside[0, 1, 1:4] = True
    flat = inside.flatten()
    mask = torch.zeros(5 + len(flat), 5 + len(flat))
    mask[0, 5:] = torch.where(flat, 0.0, -1000.0)  # from the class token to the patches outside
    embeddings = tower.norm_after(plain_tokens(tower, pixels, mask)[1])[0]
    expected = embeddings[0]
    if joins:
        expected = torch.cat([expected, embeddings[5:][flat].mean(0)])
    found = ClipEncoder(tower).image_features(pixels, inside)
    torch.testing.assert_close(found[0], F.normalize(expected, dim=0), atol=1e-5, rtol=0)
    text = F.normalize(torch.randn(3, len(expected), generator=torch.Generator().manual_seed(3)))
    behind = torch.cat([text, text[:, : small_models.WIDTH]], 1) if joins else text
    of_patches = ClipEncoder(tower).text_for_patches(behind)
    assert torch.equal(of_patches, text[:, : small_models.WIDTH] if joins else text)
    scores = ClipEncoder(tower).classify(found, behind)
    torch.testing.assert_close(scores, (tower.temperature * found @ text.T).softmax(-1))


def test_gradcam_is_that_of_autograd(tower, pixels):
    encoder, tags = ClipEncoder(tower), 2
    text = F.normalize(
        torch.randn(4, small_models.WIDTH, generator=torch.Generator().manual_seed(4))
    )
    tokens, last = plain_tokens(tower, pixels)[0][-1], tower.blocks[-1]
    expected = []
    for tag in range(tags):
        normed = last.ln_1(tokens).detach().requires_grad_()
        after = tokens + last.ls_1(last.attn(normed, normed, normed, need_weights=False)[0])
        after = after + last.ls_2(last.mlp(last.ln_2(after)))
        image = F.normalize(tower.norm_after(after)[0, 5:].mean(0), dim=0)
        (20.0 * text @ image).softmax(0)[tag].backward()
        weights = normed.grad[0, 5:].mean(0)
        expected.append(torch.relu(normed[0, 5:].detach() @ weights))
    expected = normalise(normalise(torch.stack(expected)))
    with torch.no_grad():
        inputs = encoder.backbone(pixels)
    found = softmax_gradcam(encoder, inputs, text, tags)
    assert expected.amax(1).min() > 0.99, "the CAMs have to show something in this test"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
