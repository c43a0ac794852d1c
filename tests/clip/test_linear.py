"""Packed layers against torch's own: results, gradients, independent rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import nn

from pipeline.clip.compute import linear
from pipeline.clip.compute.linear import Linear, product

ACTIVATIONS = [None, nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), QuickGELU(), nn.Tanh()]
TYPES = [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_layer(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return random(48, 32, seed=1).mul(0.2).to(dtype), random(48, seed=2).to(dtype)


@pytest.fixture(params=[True, False], ids=["oneDNN", "without oneDNN"])
def _with_and_without_onednn(request, monkeypatch):
    monkeypatch.setattr(linear, "HAS_ONEDNN", linear.HAS_ONEDNN and request.param)


@pytest.mark.usefixtures("_with_and_without_onednn")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES, ids=str)
def test_a_layer_is_torchs_with_its_activation(activation, dtype, tolerance):
    weight, bias = random_layer(dtype)
    inputs = random(3, 7, 32).to(dtype)
    expected = F.linear(inputs.float(), weight.float(), bias.float())
    expected = expected if activation is None else activation(expected)
    outputs = Linear(weight, bias, activation)(inputs)
    assert outputs.dtype == dtype and outputs.shape == (3, 7, 48)
    torch.testing.assert_close(outputs.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rows", ["a slice", "transposed", "every second"])
def test_rows_may_be_strided(rows):
    weight, bias = random_layer(torch.float32)
    inputs = {
        "a slice": random(4, 96)[:, 32:64],
        "transposed": random(32, 4).mT,
        "every second": random(8, 32)[::2],
    }[rows]
    expected = F.linear(inputs, weight, bias)
    torch.testing.assert_close(Linear(weight, bias)(inputs), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(product(inputs, weight), inputs @ weight.mT, atol=1e-5, rtol=0)
    apart = random(32, 48).mT
    torch.testing.assert_close(product(inputs, apart), inputs @ apart.mT, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("_with_and_without_onednn")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_gradients_of_several_scores_at_once_are_autograds(activation):
    weight, bias = random_layer(torch.float32)
    layers = Linear(weight, bias, activation, differentiable=True)
    back = Linear(weight.mT.contiguous(), None, differentiable=True)
    inputs = random(2, 5, 32).requires_grad_()

    def gradients(first, activate, second) -> torch.Tensor:
        scores = second(activate(first(inputs))).sin().sum(-1).mean(1)
        selectors = torch.eye(len(scores))
        return torch.autograd.grad(scores, inputs, selectors, is_grads_batched=True)[0]

    at_once = gradients(layers, lambda x: x, back)
    expected = gradients(
        lambda x: F.linear(x, weight, bias),
        activation or (lambda x: x),
        lambda x: F.linear(x, weight.mT),
    )
    assert at_once.shape == (2, 2, 5, 32)
    torch.testing.assert_close(at_once, expected, atol=1e-5, rtol=0)


def test_gradients_can_be_differentiated():
    weight, bias = random_layer(torch.float32)
    layer = Linear(weight, bias, nn.Tanh(), differentiable=True)
    inputs = random(3, 32).requires_grad_()

    def curvature(apply) -> torch.Tensor:  # noqa: ANN001
        (first,) = torch.autograd.grad(apply(inputs).sum(), inputs, create_graph=True)
        return torch.autograd.grad(first.square().sum(), inputs)[0]

    expected = curvature(lambda x: torch.tanh(F.linear(x, weight, bias)))
    torch.testing.assert_close(curvature(layer), expected, atol=1e-4, rtol=1e-4)


def test_a_layer_without_gradients_says_so():
    weight, bias = random_layer(torch.float32)
    if not linear.HAS_ONEDNN:
        pytest.skip("without oneDNN every layer is differentiable")
    with pytest.raises(RuntimeError, match="differentiable=True"):
        Linear(weight, bias)(random(2, 32).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_position(dtype):
    weight, bias = (
        t.repeat(8, 1)[:, :24] if t.dim() == 2 else t.repeat(8) for t in random_layer(dtype)
    )
    inputs = random(197 * 4, 24).to(dtype)
    layer = Linear(weight, bias, nn.SiLU())
    there = layer(inputs)
    for shift in (197, 394, 61):
        assert torch.equal(layer(inputs.roll(shift, 0)).roll(-shift, 0), there)
