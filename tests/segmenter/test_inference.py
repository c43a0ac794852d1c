"""What is done around a network when it is tested."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.segmenter.predict import Segmenter, scale_image
from tests.segmenter.tiny_segmenters import noise


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 0.37])
def test_images_are_resized_as_by_mmcv(scale):
    from mmcv.transforms import Resize

    rng = np.random.default_rng(0)
    for height, width in rng.integers(5, 90, (40, 2)):
        image = noise(height, width)
        wanted = Resize(scale_factor=scale, keep_ratio=True)({"img": image})["img"]
        assert np.array_equal(scale_image(image, scale), wanted)


@pytest.mark.parametrize("shape", [(1, 100), (1, 1), (3, 400)])
def test_no_side_vanishes(shape):
    image = np.zeros((*shape, 3), np.uint8)
    height, width = scale_image(image, 0.1).shape[:2]
    assert (height, width) == (1, max(1, shape[1] // 10))


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UserError, match="5×6 pixels: give those of this"):
        Segmenter.refine(noise(5, 6), np.ones((2, 6, 5), np.float32))
