"""The encoder against open_clip's own forward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.shared_pass import SharedPass


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_value_features_are_a_block_whose_attention_is_the_identity(tiny_clip, encoder, pixels):
    inputs = encoder.backbone(pixels)
    tokens = inputs.tokens
    block = tiny_clip.visual.transformer.resblocks[-1]
    count = tokens.shape[1]
    only_itself = torch.full((count, count), -torch.inf).fill_diagonal_(0)
    expected = block(tokens, attn_mask=only_itself)
    expected = F.normalize(tiny_clip.visual.ln_post(expected) @ tiny_clip.visual.proj, dim=-1)
    features = encoder.value_features(inputs)
    torch.testing.assert_close(features, expected[:, 1:], atol=1e-5, rtol=0)


def test_a_mask_hides_patches_from_the_class_token_alone(tiny_clip, encoder, pixels):
    inside = torch.zeros(2, 4, 4, dtype=torch.bool)
    inside[:, 1:3, 1:3] = True
    count = 17
    mask = torch.zeros(2, count, count)
    mask[:, 0, 1:] = torch.where(inside.flatten(1), 0.0, -1000.0)
    x = encoder.embed_patches(pixels)
    for block in tiny_clip.visual.transformer.resblocks:
        x = block(x, attn_mask=mask)  # one head, so one mask an image
    expected = F.normalize(tiny_clip.visual.ln_post(x[:, 0]) @ tiny_clip.visual.proj, dim=-1)
    features = encoder.image_features(pixels, inside)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(features, encoder.image_features(pixels), atol=1e-3)


def test_a_row_does_not_keep_its_batch(encoder, pixels):
    batch = encoder.backbone(pixels)
    row = SharedPass((4, 4), pixels, lambda: batch).copy_image(1).last_block_input
    for whole, part in zip(batch, row):
        assert torch.equal(part, whole[1:2])
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_positions_are_untouched_at_native_size_and_interpolated_elsewhere(tiny_clip, encoder):
    embedding = tiny_clip.visual.positional_embedding
    assert encoder.position_embedding(4, 4) is embedding
    wide = encoder.position_embedding(4, 8)
    assert wide.shape == (33, 64)
    torch.testing.assert_close(wide[0], embedding[0])
    # Halfway between two columns bilinear interpolation weighs 3:1.
    row = wide[1:].unflatten(0, (4, 8))[0]
    native = embedding[1:].unflatten(0, (4, 4))[0]
    torch.testing.assert_close(row[1], 0.75 * native[0] + 0.25 * native[1])


def test_the_quirk_rounds_interpolated_positions_to_float16(tiny_clip):
    rounded = ClipEncoder(ImageTower.of(tiny_clip), position_fp16=True)
    assert torch.equal(
        rounded.position_embedding(2, 3), rounded.position_embedding(2, 3).half().float()
    )
    assert rounded.position_embedding(4, 4) is tiny_clip.visual.positional_embedding
