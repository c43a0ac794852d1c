"""Boxes against a flood fill that shares no code with them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clip.compute.boxes import bounding_box, minmax_scale, union_of_boxes
from tests.clip.naive_boxes import naive_union


@pytest.mark.parametrize("open_border", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_union_of_boxes_is_a_flood_fill(seed: int, open_border: bool):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 2)
    maps = [minmax_scale(rng.random(shape, np.float32) ** rng.integers(1, 6)) for _ in range(3)]
    thresholds = [0.4, 0.7, float(maps[2].mean())]
    unions = union_of_boxes(np.stack(maps), thresholds, open_border=open_border)
    for union, *given in zip(unions, maps, thresholds):
        np.testing.assert_array_equal(union, naive_union(*given, open_border))


def test_a_box_at_the_border_is_cut_by_the_quirk_only():
    mask = np.zeros((4, 5), bool)
    mask[2:, 3:] = True
    assert bounding_box(mask, open_border=False) == (2, 3, 4, 5)
    assert bounding_box(mask, open_border=True) == (2, 3, 3, 4)


def test_an_empty_mask_has_an_empty_box():
    assert bounding_box(np.zeros((3, 3), bool), open_border=False) == (0, 0, 0, 0)
    assert not union_of_boxes(np.zeros((2, 3, 3), np.float32), [0.4, 0], open_border=False).any()


def test_a_constant_array_scales_to_zero():
    assert not minmax_scale(np.full((2, 2), 0.3, np.float32)).any()
