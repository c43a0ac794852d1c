"""The arithmetic that is counted is that of the formula."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from tools.benchmark.costs import Cost, cost_of_steps, cost_table
from tools.benchmark.setup import Setup


def test_arithmetic_is_that_of_a_transformer(tiny_clip):
    encoder = ClipEncoder(ImageTower.of(tiny_clip))
    image = np.zeros((64, 64, 3), np.uint8)
    costs = cost_of_steps(Setup(encoder, (4, 2), Batches(1, 4, 8)), image, repeats=1)
    by_step = {cost.step: cost.operations for cost in costs}
    width, depth, patches, embedding = 64, 4, 16, 32
    tokens = patches + 1
    block = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
    # In the last block only the class token asks, and goes on.
    last = 2 * tokens * 2 * width**2 + 2 * 2 * tokens * width + 2 * 10 * width**2
    embed = 2 * patches * 3 * 16**2 * width
    expected = embed + (depth - 1) * block + last + 2 * width * embedding
    plain = by_step["CLIP's class token, native size"]
    assert plain == expected
    assert by_step["CLIP's class token, own size"] == plain  # the image has the native size
    crops = by_step["CWR, 4 crops"]
    assert crops == 4 * plain + 4 * 2 * 6 * embedding
    assert all(cost.seconds > 0 for cost in costs)


def test_the_growth_of_tagging_leaves_out_cwr(tiny_clip, monkeypatch):
    def refuse(*_):
        raise AssertionError("a crop is classified")

    setup = Setup(ClipEncoder(ImageTower.of(tiny_clip)), (4, 2), Batches(1, 4, 8))
    monkeypatch.setattr("pipeline.tags.reidentification.Cwr.classify", refuse)
    images = [np.zeros((64, 64, 3), np.uint8)]
    setup.tag(images, reidentify=False)
    with pytest.raises(AssertionError, match="a crop is classified"):
        setup.tag(images)


def test_costs_are_told_beside_the_first():
    table = cost_table([Cost("plain", 0.5, 10**9), Cost("twice", 1.0, 2 * 10**9)], 4e9)
    assert "| plain | 500.0 | 1.00 | 1.00 | 1.00 | 50 |" in table
    assert "| twice | 1000.0 | 2.00 | 2.00 | 2.00 | 50 |" in table
