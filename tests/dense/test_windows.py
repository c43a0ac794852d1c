"""The published protocol of dense methods against loops over windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.dense.best_name import best_classes
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.windows import Windows, resize, scaled_size, similarity_map
from tests.dense import naive_protocol as naive
from tests.methods import dense_method


@pytest.fixture(scope="module")
def names() -> NameEmbeddings:
    text = torch.nn.functional.normalize(torch.randn(5, 32, generator=torch.manual_seed(0)), dim=-1)
    return NameEmbeddings(text, torch.arange(5), 20.0)


def pixels_of(height: int, width: int) -> torch.Tensor:
    return torch.randn(3, height, width, generator=torch.manual_seed(height))


@pytest.mark.parametrize("remainder", ["stretch", "pad"])
@pytest.mark.parametrize(
    ("size", "side", "stride"),
    [
        ((101, 150), 64, 32),  # the last row and column are shifted
        ((96, 128), 64, 32),  # they end at the border as they are
        ((50, 131), 64, 40),  # a side smaller than the window, with a remainder
        ((75, 90), 75, 30),  # windows with a remainder
        ((41, 57), 200, 100),  # a single window
    ],
)
def test_windows_are_averaged_as_in_loops(encoder, names, size, side, stride, remainder):
    method, pixels = dense_method("sclip"), pixels_of(*size)
    windows = Windows(side, stride, remainder)
    expected = naive.windowed(method, encoder, pixels.numpy(), names, side, stride, remainder)
    for batch_size in (1, 4):
        found = similarity_map(method, encoder, pixels, names, windows, batch_size)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_whole_image_stays_on_its_patch_grid(encoder, names):
    method, pixels = dense_method("naclip"), pixels_of(75, 101)
    found = similarity_map(method, encoder, pixels, names, Windows(0, 1, "stretch"), 1)
    assert found.shape == (5, 4, 6)
    expected = naive.on_grid(method, encoder, pixels.numpy(), names, scaled=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Zeros around the image have to be cut off again.
    found = similarity_map(method, encoder, pixels, names, Windows(0, 1, "pad"), 1)
    expected = naive.of_window(method, encoder, pixels.numpy(), names, "pad", scaled=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_resclip_sees_the_remainder_in_its_first_pass_and_no_patch_of_it(encoder, names):
    method = dense_method("resclip", cross_blocks=[-2, -1], confidence=0.21)
    pixels = pixels_of(75, 101)
    found = similarity_map(method, encoder, pixels, names, Windows(0, 1, "stretch"), 1)
    cut = similarity_map(method, encoder, pixels[:, :64, :96], names, Windows(0, 1, "stretch"), 1)
    assert found.shape == cut.shape == (5, 4, 6)
    assert not torch.equal(found, cut)


def test_images_are_scaled_as_in_mmsegmentation():
    assert scaled_size(375, 500, 336, 2048, 16) == (336, 448)
    assert scaled_size(333, 500, 336, 2048, 16) == (336, 505)  # 504.5 is rounded up
    assert scaled_size(100, 1000, 336, 2048, 16) == (205, 2048)
    assert scaled_size(3, 3000, 336, 2048, 16) == (16, 2048)
    assert scaled_size(64, 96, 448, 2048, 16) == (448, 672)


LINES = [0, 0, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("min_area", [0.0, 0.1, 0.3, 0.9])
def test_the_best_line_is_that_of_probabilities_of_all_names(min_area):
    similarities = torch.rand(7, 6, 5, generator=torch.manual_seed(1)) - 0.3
    similarities[6] -= 0.25  # a rare one
    found, probability = best_classes(similarities, LINES, (23, 31), 9.0, min_area)
    resized = naive.bilinear(similarities.double().numpy(), 23, 31)
    lines, expected = naive.decide(resized, LINES, 9.0, min_area, 0.0)
    np.testing.assert_array_equal(found, lines)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert found.dtype == torch.uint8 and len(np.unique(lines)) > (min_area < 0.5)


def test_probabilities_of_far_logits_are_finite():
    similarities = torch.tensor([-0.9, 0.9, 0.2])[:, None, None].expand(3, 2, 2).contiguous()
    line, probability = best_classes(similarities, [0, 1, 2], (2, 2), 500.0, 0.0)
    assert (line == 1).all() and (probability == 1).all()


def test_of_equal_names_the_first_counts():
    similarities = torch.full((3, 1, 1), 0.25)
    line, probability = best_classes(similarities, [0, 1, 1], (1, 1), 100.0)
    assert line.item() == 0 and probability.item() == pytest.approx(1 / 3)


def test_probabilities_are_kept_as_they_are():
    maps = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(7)).softmax(0)
    label, probability = best_classes(maps, [0, 0, 1, 2, 2], (4, 6), None)
    best, name = maps.max(0)
    torch.testing.assert_close(probability, best, atol=1e-6, rtol=0)
    assert torch.equal(label, torch.tensor([0, 0, 1, 2, 2], dtype=torch.uint8)[name])
    enlarged = resize(maps, (8, 12))
    label, probability = best_classes(maps, [0, 1, 2, 3, 4], (8, 12), None)
    torch.testing.assert_close(probability, enlarged.amax(0), atol=1e-6, rtol=0)
    assert torch.equal(label, enlarged.argmax(0).to(torch.uint8))


def test_corners_of_a_whole_image_are_aligned_if_that_is_wanted(encoder):
    pixels = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(8))
    names = NameEmbeddings(torch.eye(3, 32), torch.arange(3), 1.0)
    method = dense_method("sclip")
    grid = similarity_map(method, encoder, pixels, names, Windows(0, 1, "stretch"), 1)
    found = similarity_map(method, encoder, pixels, names, Windows(0, 1, "stretch", True), 1)
    expected = torch.nn.functional.interpolate(
        grid[None], (64, 96), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(found, expected[0])
