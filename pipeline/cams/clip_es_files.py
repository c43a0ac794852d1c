"""Maps in the layout of CLIP-ES's scripts: ``<id>.npy``, a pickled dictionary.

CLIP-ES, and TagCLIP's copy of it, write ``{"keys": …, "attn_highres": …}``: class indices from 0,
and K×H×W float16 in the image's size. IRN, and what builds on it, writes ``{"keys": …, "cam": …,
"high_res": …}``, the first of the maps at a quarter of the size.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.stage import Cams
from pipeline.errors import ImageError
from pipeline.files.images import refuse_special_file
from pipeline.files.object_files import NotPlain, read_object_file

KEYS = "keys"
"""Of the class indices."""

MAPS = ("attn_highres", "high_res", "highres", "strided_cam", "cam")
"""What maps are called in such a file; where it has several, the first of these is taken."""

_ROUNDING = 1e-3  # what float16 and a resize may add to 1


def read_clip_es(
    path: Path, size: tuple[int, int], grid: tuple[int, int], class_count: int
) -> Cams:
    """Reads the maps of an image from a file that CLIP-ES's scripts wrote.

    Maps that are finer than the grid are averaged over the area of each of its cells; others stay.

    Args:
        path: the file; nothing in it is run.
        size: height and width of the image in pixels.
        grid: rows and columns that maps are kept in.
        class_count: n; class indices are 0 to n-1.

    Raises:
        ImageError: the file is missing, damaged, holds something else than arrays, or maps that
            are none of this image or of these classes, or not in [0, 1].
    """
    try:
        refuse_special_file(path)
        content = read_object_file(path)
    except FileNotFoundError as error:
        raise ImageError(f"has no maps: {path} is missing") from error
    except ImageError as error:
        raise ImageError(f"its maps cannot be read: {path} {error}") from error
    except NotPlain as error:
        raise ImageError(f"its maps cannot be read: {path} {error}") from error
    except Exception as error:  # NumPy, pickle and PyTorch each have errors of their own
        reason = f"it is damaged, or no file of CLIP-ES ({type(error).__name__})"
        raise ImageError(f"its maps cannot be read: {path}: {reason}") from error
    try:
        keys, maps = _keys_and_maps(content, size, class_count)
        return Cams(keys, _to_grid(maps, grid), size)
    except ValueError as error:
        raise ImageError(f"its maps cannot be used: {path} {error}") from error


def encode_clip_es(cams: Cams) -> bytes:
    """Returns the maps of an image as the file that CLIP-ES's scripts read.

    It holds ``keys``, K int64, and ``attn_highres``, K×H×W float16 in the image's size, to which
    maps are resized as CLIP-ES does (bilinear). Any version of NumPy reads it.
    """
    content = {
        KEYS: np.asarray(cams.keys, np.int64),
        MAPS[0]: cams.resized(*cams.size).astype(np.float16),
    }
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, header)
    data = pickle.dumps(np.array(content, dtype=object), protocol=3)
    # NumPy 1 does not know the name that NumPy 2 has given to a module of its own, and CLIP-ES is
    # of its time; both know the old one. It is named once, before all values.
    buffer.write(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))
    return buffer.getvalue()


def _keys_and_maps(
    content: Any,  # noqa: ANN401
    size: tuple[int, int],
    class_count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns K int64 class indices, and K×h×w float32 in [0, 1].

    Raises:
        ValueError: what is wrong with them, in a few words that follow the file's name.
    """
    found = content if isinstance(content, Mapping) else {}
    name = next((name for name in MAPS if name in found), None)
    if name is None or KEYS not in found:
        raise ValueError(f"holds no dictionary with {KEYS} and {' or '.join(MAPS[:2])}")
    keys = _to_keys(found[KEYS], class_count)
    given = found[name]
    if not isinstance(given, list | np.ndarray) or np.ndim(given[:0]) not in (1, 3):
        raise ValueError("holds maps that are no rows and columns of floating point numbers")
    if len(given) != len(keys):
        raise ValueError(f"holds {len(given)} maps for {len(keys)} classes")
    if not len(keys):
        return keys, np.zeros((0, *size), np.float32)
    for one in given:
        _check_shape(one, size)
    if len({one.shape for one in given}) > 1:
        raise ValueError("holds maps of several sizes")
    maps = np.array(given, np.float32)
    if not np.isfinite(maps).all():
        raise ValueError("holds values that are no numbers (NaN or infinite)")
    low, high = float(maps.min()), float(maps.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(f"holds values from {low:.3g} to {high:.3g}, where 0 to 1 is expected")
    return keys, maps.clip(0, 1)


def _to_keys(given: Any, class_count: int) -> np.ndarray:  # noqa: ANN401
    if isinstance(given, Sequence):
        if not all(isinstance(k, int) for k in given):
            raise ValueError("holds keys that are no class indices")
        given = np.array(given, np.int64)
    if not isinstance(given, np.ndarray) or given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError("holds keys that are no class indices")
    unknown = given[(given < 0) | (given >= class_count)]
    if len(unknown):
        raise ValueError(f"holds class {unknown[0]}: the classes are 0 to {class_count - 1}")
    if len(np.unique(given)) < len(given):
        raise ValueError("holds two maps of one class")
    return given.astype(np.int64)


def _check_shape(one: Any, size: tuple[int, int]) -> None:  # noqa: ANN401
    """Refuses what is no map of an image of this size, whole or at a fraction of it."""
    if not isinstance(one, np.ndarray) or one.ndim != 2 or one.dtype.kind != "f" or not one.size:
        raise ValueError("holds maps that are no rows and columns of floating point numbers")
    (height, width), (rows, columns) = size, one.shape
    # Both sides are the same fraction of the image's, but for a row or a column of rounding.
    fits = abs(rows / height - columns / width) <= 1 / height + 1 / width
    if rows > height or columns > width or not fits:
        raise ValueError(f"holds maps of {columns}×{rows} for an image of {width}×{height} pixels")


def _to_grid(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Averages K×h×w maps over a grid's cells, where they are finer; K×rows×columns float16."""
    if not len(maps):
        return np.zeros((0, *grid), np.float16)
    target = (min(grid[0], maps.shape[1]), min(grid[1], maps.shape[2]))
    averaged = F.adaptive_avg_pool2d(torch.from_numpy(maps).unsqueeze(0), target)[0]
    return averaged.numpy().astype(np.float16)
