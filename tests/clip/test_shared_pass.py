"""Every batch is of one patch grid, and few images wait."""

from __future__ import annotations

import numpy as np

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.shared_pass import batch_by_grid

WIDTHS = dict(zip("abcde", (20, 40, 60, 80, 100)))
"""The width of an image by its name; each has a patch grid of its own."""


def batches(tiny_clip, names: str, size: int, max_waiting: int) -> list[str]:
    """Batches images, and returns the names in every batch."""
    images = ((name, np.zeros((10, WIDTHS[name], 3), np.uint8)) for name in names)
    grouped = batch_by_grid(ClipEncoder(ImageTower.of(tiny_clip)), images, size, max_waiting)
    return ["".join(name for name, _ in batch) for batch in grouped]


def test_a_batch_is_yielded_when_it_is_full(tiny_clip):
    assert batches(tiny_clip, "abababcab", 3, 100) == ["aaa", "bbb", "c", "a", "b"]
    assert batches(tiny_clip, "abc", 1, 0) == ["a", "b", "c"]
    assert batches(tiny_clip, "", 3, 5) == []


def test_no_more_wait_than_allowed_and_the_oldest_are_yielded_first(tiny_clip):
    assert batches(tiny_clip, "abcabcd", 3, 3) == ["aa", "bb", "cc", "d"]
    assert batches(tiny_clip, "abcde", 2, 1) == ["a", "b", "c", "d", "e"]
