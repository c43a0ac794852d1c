"""The resize of images by which dense methods were published, against OpenCV's own."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.dense.windows import resize_as_opencv
from tests.dense.naive_protocol import along

SIZES = [
    ((75, 100), (67, 90)),
    ((100, 67), (101, 68)),
    ((64, 96), (336, 504)),
    ((96, 64), (33, 21)),
    ((40, 1), (9, 7)),
    ((1, 1), (5, 3)),
    ((30, 20), (30, 20)),
]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_opencvs_to_the_last_digit(before, after):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)
    expected = cv2.resize(image, after[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_as_opencv(image, *after), expected)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_within_a_grey_level_of_the_exact_interpolation(before, after):
    image = np.random.default_rng(1).integers(0, 256, (*before, 3), dtype=np.uint8)
    rows, columns = (along(n, m) for n, m in zip(before, after))
    exact = np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(float), optimize=True)
    assert abs(resize_as_opencv(image, *after) - exact).max() <= 1
