"""Boxes on the patch grid: the part of the method that looks at connected regions of a map.

Boxes are (top, left, bottom, right) in patches, bottom and right exclusive.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import find_objects, label

Box = tuple[int, int, int, int]

_EIGHT_CONNECTED = np.ones((3, 3), int)


def minmax_scale(values: np.ndarray) -> np.ndarray:
    """Scales a map to [0, 1] by its minimum and maximum; a constant map becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def bounding_box(mask: np.ndarray, *, open_border: bool) -> Box:
    """Returns the box around the true cells of a mask; of no extent where there are none.

    Args:
        mask: h×w bool.
        open_border: quirk: the exclusive edges are clipped to h−1 and w−1, so that a box that
            touches the bottom or the right border loses its last row or column.
    """
    if not mask.any():
        return 0, 0, 0, 0
    ((rows, columns),) = find_objects(mask.astype(int))
    return _clip((rows.start, columns.start, rows.stop, columns.stop), mask.shape, open_border)


def union_of_boxes(scaled: np.ndarray, threshold: float, *, open_border: bool) -> np.ndarray:
    """Returns the union of the boxes around the regions above a threshold (ALGORITHMS §2, §3).

    Args:
        scaled: h×w float32 in [0, 1]; it is quantised to bytes first.
        threshold: share of the largest byte that a cell must exceed, in [0, 1].
        open_border: see :func:`bounding_box`.

    Returns:
        h×w bool; all false where no cell exceeds the threshold.
    """
    quantised = (scaled * 255).astype(np.uint8)
    foreground = quantised > int(threshold * quantised.max())
    regions, _ = label(foreground, _EIGHT_CONNECTED)
    union = np.zeros(scaled.shape, bool)
    for rows, columns in find_objects(regions):
        box = (rows.start, columns.start, rows.stop, columns.stop)
        top, left, bottom, right = _clip(box, scaled.shape, open_border)
        union[top:bottom, left:right] = True
    return union


def _clip(box: Box, shape: tuple[int, int], open_border: bool) -> Box:
    if not open_border:
        return box
    top, left, bottom, right = box
    return top, left, min(bottom, shape[0] - 1), min(right, shape[1] - 1)
