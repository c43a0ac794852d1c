"""Label propagation against loops over patches and pixels, and a direct solution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.dense.lposs import LpossSettings
from pipeline.dense.lposs.propagation import (
    PixelGraph,
    centres,
    propagate,
    propagate_over_pixels,
    solve,
)
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.windows import Windows, similarity_map
from tests.methods import dense_method


def normalised(weights: np.ndarray) -> np.ndarray:
    degrees = weights.sum(1)
    scale = np.where(degrees == 0, 1, degrees) ** -0.5
    return scale[:, None] * weights * scale


def patch_graph(features: np.ndarray, positions: np.ndarray, neighbours: int) -> np.ndarray:
    count = len(features)
    weights = np.zeros((count, count))
    for i in range(count):
        alike = features @ features[i]
        for j in np.argsort(-alike)[:neighbours]:
            away = math.dist(positions[i], positions[j])
            weight = max(0.0, float(alike[j])) ** 3 * math.exp(-0.01 * away)
            weights[i, j] += weight
            weights[j, i] += weight
    np.fill_diagonal(weights, 0)
    return normalised(weights)


def pixel_graph(image: np.ndarray, radius: int, bandwidth: float) -> np.ndarray:
    lab = rgb2lab(image) / [100, 128, 128]
    height, width = image.shape[:2]
    weights = np.zeros((height * width, height * width))
    for y, x in np.ndindex(height, width):
        for other_y, other_x in np.ndindex(height, width):
            near = max(abs(y - other_y), abs(x - other_x)) <= radius
            if near and (y, x) != (other_y, other_x):
                away = np.linalg.norm(lab[y, x] - lab[other_y, other_x])
                weights[y * width + x, other_y * width + other_x] = math.exp(-away / bandwidth)
    return normalised(weights)


def few_steps(adjacency: np.ndarray, given: np.ndarray, alpha: float, steps: int) -> np.ndarray:
    """Returns conjugate gradients of each column, as a textbook has them."""
    matrix, columns = np.eye(len(adjacency)) - alpha * adjacency, []
    for y in given.T:
        x, r = np.zeros_like(y), y.copy()
        p = r.copy()
        for _ in range(steps):
            if np.linalg.norm(r) <= 1e-6 * np.linalg.norm(y):
                break
            step = r @ r / (p @ matrix @ p)
            x, after = x + step * p, r - step * (matrix @ p)
            p = after + after @ after / (r @ r) * p
            r = after
        columns.append(x)
    return np.stack(columns, 1)


@pytest.fixture
def patches() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=-1)
    return torch.randn(40, 3, generator=generator), features, 200 * torch.rand(40, 2)


@pytest.mark.parametrize("neighbours", [7, 400])
def test_patches_are_those_of_loops(patches, neighbours):
    given, features, positions = patches
    found = propagate(given, features, positions, LpossSettings(neighbours=neighbours))
    adjacency = patch_graph(features.numpy(), positions.numpy(), neighbours)
    expected = few_steps(adjacency, given.double().numpy(), 0.95, 10)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_many_steps_reach_the_direct_solution_and_ten_do_not(patches):
    given, features, positions = patches
    adjacency = patch_graph(features.numpy(), positions.numpy(), 7)
    exact = np.linalg.solve(np.eye(40) - 0.95 * adjacency, given.double().numpy())
    spread = torch.from_numpy(adjacency).matmul
    many, few = (solve(spread, given.double(), 0.95, steps).numpy() for steps in (500, 10))
    np.testing.assert_allclose(many, exact, atol=1e-4)
    assert np.abs(few - exact).max() > 1e-2


def test_a_column_of_zeros_stays(patches):
    given, features, positions = patches
    given[:, 1] = 0
    found = propagate(given, features, positions, LpossSettings())
    assert torch.isfinite(found).all() and (found[:, 1] == 0).all() and found[:, 0].any()


@pytest.mark.parametrize("radius", [1, 2, 6])
def test_pixels_are_those_of_loops(radius):
    rng = np.random.default_rng(radius)
    image = rng.integers(100, 120, (5, 8, 3), dtype=np.uint8)
    scores = rng.random((2, 5, 8)).astype(np.float32)
    adjacency = pixel_graph(image, radius, 0.05)
    given = scores.reshape(2, -1).T.astype(np.float64)
    graph = PixelGraph(image, radius, 0.05, torch.device("cpu"))
    np.testing.assert_allclose(graph.spread(torch.from_numpy(given)), adjacency @ given, atol=1e-6)
    kernel = {"radius": radius, "bandwidth": 0.05, "alpha": 0.9, "steps": 4}
    found = propagate_over_pixels(torch.from_numpy(scores), image, **kernel)
    expected = few_steps(adjacency, given, 0.9, 4).T.reshape(2, 5, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_names_are_propagated_in_parts_as_together(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    scores = torch.from_numpy(rng.random((5, 6, 7)).astype(np.float32))
    together = propagate_over_pixels(scores, image)
    monkeypatch.setattr("pipeline.dense.lposs.propagation._VALUES", 2 * 42)
    assert torch.equal(propagate_over_pixels(scores, image), together)


def test_patches_of_windows_have_their_centres_in_the_image():
    found = centres([(0, 0), (10, 96)], (2, 3), (32, 48)).tolist()
    assert found[:3] == [[8, 8], [8, 24], [8, 40]]
    assert found[6] == [18, 104] and len(found) == 12


@torch.no_grad()
def test_a_map_is_the_mean_of_windows_that_share_a_graph(tiny_clip):
    encoder, text = ClipEncoder(ImageTower.of(tiny_clip)), torch.eye(5, 32)
    method, names = (
        dense_method("lposs", neighbours=20),
        NameEmbeddings(text, torch.arange(5), 20.0),
    )
    pixels = torch.randn(3, 64, 96, generator=torch.manual_seed(0))
    image = np.zeros((64, 96, 3), np.uint8)
    windows = Windows(64, 32, "stretch")
    found = similarity_map(method, encoder, pixels, names, windows, 1, image=image)
    corners = [(0, 0), (0, 32)]
    seen = method.run_pass(encoder, torch.stack([pixels[:, :, x : x + 64] for _, x in corners]))
    _, spread, _ = method.spread(encoder, [(corners, seen)], names)
    large = torch.nn.functional.interpolate(spread, (64, 64), mode="bilinear")
    torch.testing.assert_close(found[:, :, :32], large[0][:, :, :32])
    torch.testing.assert_close(found[:, :, 32:64], (large[0][:, :, 32:] + large[1][:, :, :32]) / 2)
    # LPOSS+ goes on from there, with the colours of the original.
    pixelwise = dense_method("lposs", neighbours=20, pixels=True)
    after = similarity_map(pixelwise, encoder, pixels, names, windows, 1, image=image)
    torch.testing.assert_close(after, propagate_over_pixels(found, image))


@torch.no_grad()
def test_similarities_of_an_image_are_as_large_as_cosines(tiny_clip):
    """CAMs are a softmax at the temperature of CLIP, which is for cosines."""
    encoder = ClipEncoder(ImageTower.of(tiny_clip))
    names = NameEmbeddings(torch.eye(5, 32), torch.arange(5), 20.0)
    seen = dense_method("lposs").run_pass(encoder, torch.randn(2, 3, 64, 96))
    for pixels in (False, True):
        method = dense_method("lposs", neighbours=20, pixels=pixels)
        found = method.similarities(encoder, seen, names)
        assert found.shape == (2, 24, 5) and 0.01 < found.abs().max() <= 1
    _, [spread], _ = method.spread(encoder, [([(0, 0)], seen.copy_image(0))], names)
    alone = dense_method("lposs", neighbours=20).similarities(encoder, seen, names)[0]
    pooled = torch.nn.functional.adaptive_avg_pool2d(spread, (4, 6)).flatten(1).mT
    torch.testing.assert_close(alone, 0.05 * pooled)
