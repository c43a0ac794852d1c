"""Bounding boxes of connected regions on the patch grid.

Boxes are (top, left, bottom, right) in patches, bottom and right exclusive. They come from SciPy:
scikit-image's ``regionprops`` finds the same boxes through the same function, but takes three times
as long or more, which shows where there are hundreds of classes.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects, label

Box = tuple[int, int, int, int]

_WITHIN_A_MAP = np.zeros((3, 3, 3), bool)  # which cells are neighbours: no map touches another
_WITHIN_A_MAP[1] = True


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
    rows, columns = next(iter(find_objects(mask.astype(int))), (slice(0, 0), slice(0, 0)))
    last_row, last_column = (side - open_border for side in mask.shape)
    return rows.start, columns.start, min(rows.stop, last_row), min(columns.stop, last_column)


def union_of_boxes(
    scaled: np.ndarray, thresholds: Sequence[float], *, open_border: bool
) -> np.ndarray:
    """Returns the union of the boxes around the regions of each map, C×h×w bool.

    See docs/method.md, sections 2 and 3. Regions are 8-connected; without any, all is false.

    Args:
        scaled: C×h×w float32 in [0, 1]; it is quantised to bytes first.
        thresholds: for each map the share of its largest byte that a cell must exceed, in [0, 1].
        open_border: see :func:`bounding_box`.
    """
    quantised = (scaled * 255).astype(np.uint8)
    largest = quantised.max((1, 2), keepdims=True)
    foreground = quantised > (np.reshape(thresholds, (-1, 1, 1)) * largest).astype(int)
    regions, _ = label(foreground, _WITHIN_A_MAP)
    union = np.zeros(scaled.shape, bool)
    for box in find_objects(regions):
        union[box] = True
    if open_border:
        union[:, -1] = union[:, :, -1] = False
    return union
