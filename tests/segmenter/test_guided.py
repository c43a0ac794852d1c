"""Logits that an image guides: no class enters, nothing moves, and edges are learned."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.settings import STRIDE, side_divisor

import_mmseg()

from pipeline.segmenter.guided import GuidedLogits  # noqa: E402


@pytest.fixture
def guided() -> GuidedLogits:
    """One whose weights are far from those at the start."""
    torch.manual_seed(0)
    built = GuidedLogits(16, 32)
    for layer in (built.propagation, built.upsampling):
        torch.nn.init.normal_(layer.weight)
    return built


def inputs(classes: int = 5, sides: tuple[int, int] = (48, 40)) -> list[torch.Tensor]:
    generator, places = torch.Generator().manual_seed(1), [side // STRIDE for side in sides]
    shapes = (2, classes, *places), (2, 16, *places), (2, 3, *sides)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def test_the_weights_know_no_class(guided):
    logits, *others = inputs()
    order = torch.randperm(5)
    found = guided(logits, *others)
    assert found.shape == (2, 5, 48, 40)
    assert torch.equal(guided(logits[:, order], *others), found[:, order])


@torch.no_grad()
def test_pixels_are_convex_combinations(guided):
    logits, features, image = inputs()
    constant = guided(torch.full_like(logits, 7), features, image)
    torch.testing.assert_close(constant, torch.full((2, 5, 48, 40), 7.0))
    found = guided(logits, features, image)
    # Those of the definition, place by place; the nearest place stands for one outside the map.
    guide = guided.guide(torch.cat([features, guided.stem(image)], 1))
    spread = guided.propagation(guide).reshape(2, 2, 9, 12, 10).softmax(2)
    weights = guided.upsampling(guide).reshape(2, 9, STRIDE, STRIDE, 12, 10).softmax(1)
    places = [*product(range(12), range(10))]
    for step, dilation in enumerate((1, 2)):
        means = [
            (near(logits, *at, dilation) * spread[:, None, step, :, *at]).sum(-1) for at in places
        ]
        logits = torch.stack(means, -1).reshape(logits.shape)
    for y, x in ((0, 0), (17, 22), (47, 39)):
        at = y // STRIDE, x // STRIDE
        own = weights[:, None, :, y % STRIDE, x % STRIDE, *at]
        torch.testing.assert_close(found[..., y, x], (near(logits, *at) * own).sum(-1))


def near(maps: torch.Tensor, y: int, x: int, dilation: int = 1) -> torch.Tensor:
    """Returns N×C×9 values of the 3×3 places round one."""
    offsets = product((-dilation, 0, dilation), repeat=2)
    height, width = maps.shape[2:]
    at = [(min(max(y + b, 0), height - 1), min(max(x + a, 0), width - 1)) for b, a in offsets]
    return torch.stack([maps[..., row, column] for row, column in at], -1)


def test_no_gradient_returns_to_the_features(guided):
    logits, features, image = (each.requires_grad_() for each in inputs())
    guided(logits, features, image).square().sum().backward()
    assert logits.grad is not None
    assert features.grad is None


@pytest.mark.parametrize("patch_size", [8, 14, 16, 32])
@torch.no_grad()
def test_an_edge_stays_in_its_place_at_every_offset(patch_size):
    """The first weights are those of bilinear interpolation, whatever the distance of the logits.

    A place has the share of its pixels that are right of the edge, less a half.
    """
    guided, side = GuidedLogits(16, 32), 2 * side_divisor(patch_size, "tokens")
    finer = 8 * side  # in which places of patches of any size are whole
    count = 4 * side // patch_size
    for edge in range(side + 1):
        right = (torch.arange(finer) >= 8 * edge).float().reshape(count, -1).mean(1) - 0.5
        logits = torch.stack([-right, right]).expand(1, count, 2, count).transpose(1, 2)
        found = guided(logits, torch.zeros(1, 16, count, count), torch.zeros(1, 3, side, side))
        labels = found.argmax(1)[0]
        assert (labels == labels[0]).all()
        if patch_size / 4 < edge < side - patch_size / 4:
            assert abs(int((labels[0] == 0).sum()) - edge) <= max(patch_size / 8, 1)
