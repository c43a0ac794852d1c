"""A block without its attention against open_clip's own."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import nn

from pipeline.clip.attention import attend
from pipeline.clip.block import Block


def random_block(activation: type[nn.Module], scale: float | None) -> ResidualAttentionBlock:
    torch.manual_seed(3)
    block = ResidualAttentionBlock(64, 2, ls_init_value=scale, act_layer=activation)
    return block.eval().requires_grad_(False)


def random_tokens() -> torch.Tensor:
    return torch.randn(2, 26, 64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)]
)
@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_block_is_open_clips(precision, tolerance, activation, scale):
    original, tokens = random_block(activation, scale), random_tokens()
    block = Block(original, precision)
    attended = attend(*block.project(block.ln_1(tokens)))
    output = block.finish(tokens, attended)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, original(tokens), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_few_tokens_can_attend_to_all(precision):
    block, tokens = Block(random_block(QuickGELU, None), precision), random_tokens()
    normed = block.ln_1(tokens)
    query, key, value = block.project(normed)
    few, same_key, same_value = block.project_for(normed, normed[:, 3:5])
    torch.testing.assert_close(few, query[:, :, 3:5], atol=1e-6, rtol=1e-2)
    torch.testing.assert_close(same_key, key, atol=1e-6, rtol=1e-2)
    torch.testing.assert_close(same_value, value, atol=1e-6, rtol=1e-2)


def test_gradients_are_backpropagated_through_the_projections():
    original = random_block(QuickGELU, None)
    block = Block(original, differentiable=True)
    normed = random_tokens().requires_grad_()
    projected = normed @ original.attn.in_proj_weight.mT
    weights = torch.randn(projected.shape, generator=torch.Generator().manual_seed(5))
    (projected * weights).sum().backward()
    torch.testing.assert_close(block.pull_back(weights), normed.grad, atol=1e-5, rtol=0)


def test_the_original_block_is_not_modified():
    original, tokens = random_block(QuickGELU, None), random_tokens()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    block = Block(original, torch.bfloat16)
    block.finish(tokens, attend(*block.project(block.ln_1(tokens))))
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])
