"""The resize to whole patches, and the normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clip.dimensions import OPENAI_NORMALISATION, patch_grid
from pipeline.clip.encoder import to_pixels


def test_images_are_resized_up_to_whole_patches():
    assert patch_grid(375, 500, 16) == (24, 32)
    assert patch_grid(1, 1, 16) == (1, 1)


@pytest.mark.parametrize("size", [(6000, 4000), (1, 200_000), (200_000, 1), (1040, 1024)])
def test_the_grid_of_a_large_image_is_bounded(size):
    rows, columns = patch_grid(*size, 16, max_patches=4096)
    assert rows >= 1 and columns >= 1 and rows * columns <= 4096
    if min(size) > 16:
        assert rows * columns > 3900
        assert rows / columns == pytest.approx(size[0] / size[1], rel=0.03)
    assert patch_grid(375, 500, 16, max_patches=4096) == (24, 32)


def test_pixels_are_normalised_as_clip_expects():
    image = np.full((16, 16, 3), (0, 128, 255), np.uint8)
    pixels = to_pixels(image, 32, 16)
    assert pixels.shape == (3, 32, 16)
    expected = [
        (0 - 0.48145466) / 0.26862954,
        (128 / 255 - 0.4578275) / 0.26130258,
        (1 - 0.40821073) / 0.27577711,
    ]
    np.testing.assert_allclose(pixels[:, 3, 3], expected, atol=1e-6)


def test_openai_normalisation_is_that_of_open_clip():
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    assert OPENAI_NORMALISATION.mean == tuple(OPENAI_DATASET_MEAN)
    assert OPENAI_NORMALISATION.std == tuple(OPENAI_DATASET_STD)
