"""Logits that an image guides: no class enters, nothing moves, and edges are learned."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.settings import STRIDE, side_divisor

import_mmseg()

from pipeline.segmenter.guided import ConvexUpsampling  # noqa: E402


@pytest.fixture
def upsampling() -> ConvexUpsampling:
    """One whose weights are far from those at the start."""
    torch.manual_seed(0)
    built = ConvexUpsampling(16, 32)
    torch.nn.init.normal_(built.weights.weight)
    return built


def inputs(classes: int = 5, sides: tuple[int, int] = (48, 40)) -> list[torch.Tensor]:
    generator, places = torch.Generator().manual_seed(1), [side // STRIDE for side in sides]
    shapes = (2, classes, *places), (2, 16, *places), (2, 3, *sides)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def test_the_weights_know_no_class(upsampling):
    logits, *others = inputs()
    order = torch.randperm(5)
    found = upsampling(logits, *others)
    assert found.shape == (2, 5, 48, 40)
    assert torch.equal(upsampling(logits[:, order], *others), found[:, order])


@torch.no_grad()
def test_pixels_are_convex_combinations(upsampling):
    logits, *others = inputs()
    constant = torch.full_like(logits, 7)
    torch.testing.assert_close(upsampling(constant, *others), torch.full((2, 5, 48, 40), 7.0))
    found = upsampling(logits, *others)
    around = torch.nn.functional.pad(logits, [1] * 4, mode="replicate")
    most = torch.nn.functional.max_pool2d(around, 3, stride=1)
    assert (found <= interpolate(most, (48, 40)) + 1e-5).all()
    # And those of the definition, place by place.
    features, image = others
    guide = upsampling.guide(torch.cat([features, upsampling.stem(image)], 1))
    weights = upsampling.weights(guide).reshape(2, 9, STRIDE, STRIDE, 12, 10).softmax(1)
    for y, x in ((0, 0), (17, 22), (47, 39)):
        row, column = y // STRIDE, x // STRIDE
        near = around[..., row : row + 3, column : column + 3].flatten(-2)
        own = weights[:, None, :, y % STRIDE, x % STRIDE, row, column]
        torch.testing.assert_close(found[..., y, x], (near * own).sum(-1))


def test_no_gradient_returns_to_the_features(upsampling):
    logits, features, image = (each.requires_grad_() for each in inputs())
    upsampling(logits, features, image).square().sum().backward()
    assert logits.grad is not None
    assert features.grad is None


@pytest.mark.parametrize("patch_size", [8, 14, 16, 32])
@torch.no_grad()
def test_an_edge_stays_in_its_place_at_every_offset(patch_size):
    """The first weights are those of bilinear interpolation, whatever the distance of the logits.

    A place has the share of its pixels that are right of the edge, less a half.
    """
    upsampling, side = ConvexUpsampling(16, 32), 2 * side_divisor(patch_size, "tokens")
    finer = 8 * side  # in which places of patches of any size are whole
    count = 4 * side // patch_size
    for edge in range(side + 1):
        right = (torch.arange(finer) >= 8 * edge).float().reshape(count, -1).mean(1) - 0.5
        logits = torch.stack([-right, right]).expand(1, count, 2, count).transpose(1, 2)
        found = upsampling(logits, torch.zeros(1, 16, count, count), torch.zeros(1, 3, side, side))
        labels = found.argmax(1)[0]
        assert (labels == labels[0]).all()
        if patch_size / 4 < edge < side - patch_size / 4:
            assert abs(int((labels[0] == 0).sum()) - edge) <= max(patch_size / 8, 1)
