"""PAMR and PAR against loops over pixels, and against what the released code computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.clip.encoder import to_pixels
from pipeline.dense.pixel_adaptive import pamr, par

STEPS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def pamr_weights(centre: np.ndarray, around: np.ndarray, dilations: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of P neighbours, whose colours are P×3."""
    both = np.concatenate([around, np.repeat(centre[None], len(dilations), 0)])
    deviation = both.std(0, ddof=1)
    return softmax((-abs(around - centre) / (1e-8 + 0.1 * deviation)).mean(1))


def par_weights(centre: np.ndarray, around: np.ndarray, dilations: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of P neighbours, whose colours are P×3."""
    deviation = around.std(0, ddof=1)
    of_colour = (-((abs(around - centre) / (deviation + 1e-8) / 0.3) ** 2)).mean(1)
    distance = np.array(
        [d * (math.sqrt(2) if dy and dx else 1) for d in dilations for dy, dx in STEPS]
    )
    of_place = -((distance / (distance.std(ddof=1) + 1e-8) / 0.3) ** 2)
    return softmax(of_colour) + 0.01 * softmax(of_place)


def naive(image, masks, iterations, dilations, weights_of):
    """Averages masks, C×H×W, pixel by pixel in float64."""
    image, masks = image.astype(np.float64), masks.astype(np.float64)
    height, width = image.shape[1:]
    for _ in range(iterations):
        averaged = np.zeros_like(masks)
        for y in range(height):
            for x in range(width):
                rows, columns = zip(
                    *(
                        (min(max(y + d * dy, 0), height - 1), min(max(x + d * dx, 0), width - 1))
                        for d in dilations
                        for dy, dx in STEPS
                    )
                )
                around = image[:, rows, columns].T
                weights = weights_of(image[:, y, x], around, dilations)
                averaged[:, y, x] = masks[:, rows, columns] @ weights
        masks = averaged
    return masks


@pytest.mark.parametrize(("refine", "weights_of"), [(pamr, pamr_weights), (par, par_weights)])
@pytest.mark.parametrize("dilations", [(1, 3), (2,)])
def test_a_batch_is_what_loops_over_pixels_compute(refine, weights_of, dilations):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 3, 7, 5)).astype(np.float32)
    images[0, :, :3, :3] = 0.4  # a region of one colour
    masks = rng.random((2, 4, 7, 5)).astype(np.float32)
    found = refine(
        torch.from_numpy(images), torch.from_numpy(masks), iterations=2, dilations=dilations
    )
    assert found.dtype == torch.float32
    for image, mask, of_image in zip(images, masks, found):
        expected = naive(image, mask, 2, dilations, weights_of)
        np.testing.assert_allclose(of_image, expected, atol=1e-5)


def aligned(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes C×h×w so that the corners' centres stay in place, one axis after the other."""

    def along(length: int, size: int) -> np.ndarray:
        places = np.linspace(0, length - 1, size)
        return np.maximum(0, 1 - abs(places[:, None] - np.arange(length)))

    return along(values.shape[1], height) @ values @ along(values.shape[2], width).T


def test_pamr_brings_masks_to_the_image_and_par_the_image_to_masks():
    rng = np.random.default_rng(1)
    image, masks = rng.normal(size=(3, 6, 8)), rng.random((2, 4, 5))
    tensors = [torch.from_numpy(each[None].astype(np.float32)) for each in (image, masks)]
    found = pamr(*tensors, iterations=1, dilations=(1,))[0]
    expected = naive(image, aligned(masks, 6, 8), 1, (1,), pamr_weights)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = par(*tensors, iterations=1, dilations=(1,))[0]
    expected = naive(aligned(image, 4, 5), masks, 1, (1,), par_weights)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("refine", "steps"), [(pamr, 10), (par, 20)])
def test_masks_given_are_left_alone(refine, steps):
    image, masks = torch.rand(1, 3, 9, 9), torch.rand(1, 1, 9, 9)
    before = masks.clone()
    assert torch.equal(refine(image, masks, iterations=0), before)
    once = refine(image, masks, iterations=steps)
    assert torch.equal(masks, before)
    assert torch.equal(refine(image, masks), once)


def test_everything_is_computed_on_the_device_of_the_image():
    """The device "meta" computes shapes alone, and refuses tensors of a CPU."""
    image, masks = (
        torch.empty(2, 3, 20, 30, device="meta"),
        torch.empty(2, 5, 20, 30, device="meta"),
    )
    assert pamr(image, masks).shape == par(image, masks).shape == masks.shape
    assert pamr(image, masks).device.type == par(image, masks).device.type == "meta"


@pytest.mark.parametrize("refine", [pamr, par])
def test_refined_masks_are_the_released_ones(refine, golden):
    ids = [name.removesuffix("/masks") for name in golden if name.endswith("/masks")]
    assert len(ids) == 3
    for image_id in ids:
        image = to_pixels(golden[f"{image_id}/image_224"], 224, 224)[None, :, :90, :110]
        found = refine(image, torch.from_numpy(golden[f"{image_id}/masks"])[None])[0].numpy()
        expected = golden[f"{image_id}/{refine.__name__}"]
        assert abs(found - expected).max() <= 1e-5 * abs(expected).max()
