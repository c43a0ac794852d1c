"""Bounding boxes of connected regions on the patch grid.

Boxes are (top, left, bottom, right) in patches, bottom and right exclusive. They come from SciPy:
scikit-image's ``regionprops`` finds the same boxes through the same function, but takes three times
as long or more, which shows where there are hundreds of classes.
"""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import find_objects, label

Box = tuple[int, int, int, int]


def minmax_scale(values: np.ndarray) -> np.ndarray:
    """Scales an array to [0, 1] by its minimum and maximum; a constant array becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def bounding_box(mask: np.ndarray, *, open_border: bool) -> Box:
    """Returns the bounding box of the true cells of a mask; (0, 0, 0, 0) if there are none.

    Args:
        mask: h×w bool.
        open_border: quirk: the exclusive edges are clipped to h−1 and w−1, so that a box that
            touches the bottom or the right border loses its last row or column.
    """
    return next(_boxes(mask.astype(int), open_border), (0, 0, 0, 0))


def union_of_boxes(scaled: np.ndarray, threshold: float, *, open_border: bool) -> np.ndarray:
    """Returns the union of the boxes around the regions above a threshold, h×w bool.

    See docs/method.md, sections 2 and 3. Regions are 8-connected; without any, all is false.

    Args:
        scaled: h×w float32 in [0, 1]; it is quantised to bytes first.
        threshold: share of the largest byte that a cell must exceed, in [0, 1].
        open_border: see :func:`bounding_box`.
    """
    quantised = (scaled * 255).astype(np.uint8)
    foreground = quantised > int(threshold * quantised.max())
    regions, _ = label(foreground, np.ones((3, 3)))
    union = np.zeros(scaled.shape, bool)
    for top, left, bottom, right in _boxes(regions, open_border):
        union[top:bottom, left:right] = True
    return union


def _boxes(regions: np.ndarray, open_border: bool) -> Iterator[Box]:
    """Yields the box of each of the regions 1, 2, … of an h×w array of integers."""
    height, width = regions.shape
    for rows, columns in find_objects(regions):
        bottom, right = rows.stop, columns.stop
        if open_border:
            bottom, right = min(bottom, height - 1), min(right, width - 1)
        yield rows.start, columns.start, bottom, right
