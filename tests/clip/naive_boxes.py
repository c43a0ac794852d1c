"""Boxes around regions, found by hand."""

from __future__ import annotations

import math

import numpy as np


def naive_union(scaled: np.ndarray, threshold: float, open_border: bool) -> np.ndarray:
    """Finds 8-connected regions by hand and fills the box of each."""
    height, width = scaled.shape
    bytes_ = [[int(math.floor(255 * float(v))) for v in row] for row in scaled]
    limit = math.floor(threshold * max(max(row) for row in bytes_))
    todo = {(r, c) for r in range(height) for c in range(width) if bytes_[r][c] > limit}
    union = np.zeros(scaled.shape, bool)
    while todo:
        region, frontier = set(), [todo.pop()]
        while frontier:
            r, c = frontier.pop()
            region.add((r, c))
            for dr in (-1, 0, 1):
                for dc in (-1, 0, 1):
                    neighbour = (r + dr, c + dc)
                    if neighbour in todo:
                        todo.remove(neighbour)
                        frontier.append(neighbour)
        top, left = min(r for r, _ in region), min(c for _, c in region)
        bottom, right = max(r for r, _ in region) + 1, max(c for _, c in region) + 1
        if open_border:
            bottom, right = min(bottom, height - 1), min(right, width - 1)
        for r in range(top, bottom):
            for c in range(left, right):
                union[r, c] = True
    return union
