"""CAMs in the files of CLIP-ES's scripts: ``<id>.npy``, a pickled dictionary.

CLIP-ES, and TagCLIP's copy of it, write ``{"keys": …, "attn_highres": …}``: class indices from 0,
and K×H×W float16 in the image's size. IRN, and methods that build on it, write ``{"keys": …,
"cam": …, "high_res": …}``, where ``cam`` has a quarter of the image's size.
"""

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.errors import ImageError
from pipeline.files.images import refuse_special_file
from pipeline.files.object_files import NotPlain, read_object_file

CAMS = ("attn_highres", "high_res", "highres", "strided_cam", "cam")
"""The names of CAMs in a file; of several the first in this order is read."""

_ROUNDING = 1e-3  # float16 and a resize may exceed 1 by this


def read_clip_es(
    path: Path, size: tuple[int, int], grid: tuple[int, int], num_classes: int
) -> Cams:
    """Reads the CAMs of an image from a file of CLIP-ES's or IRN's scripts.

    CAMs finer than the grid are averaged over the area of each of its cells; others stay.

    Args:
        path: the file; no code in it is run.
        size: height and width of the image in pixels.
        grid: rows and columns of the result.
        num_classes: n; class indices are 0 to n-1.

    Raises:
        ImageError: the file is missing, damaged, or holds anything but arrays, or the CAMs are of
            another image or other classes, or not in [0, 1].
    """
    try:
        refuse_special_file(path)
        keys, cams = _parse(read_object_file(path), size, num_classes)
    except FileNotFoundError as error:
        raise ImageError(f"has no CAMs: {path} is missing") from error
    except (ImageError, NotPlain) as error:
        raise ImageError(f"its CAMs cannot be used: {path} {error}") from error
    except Exception as error:  # NumPy, pickle and PyTorch each have errors of their own
        reason = f"is damaged, or not a file of CLIP-ES ({type(error).__name__})"
        raise ImageError(f"its CAMs cannot be used: {path} {reason}") from error
    if not len(keys):
        return Cams(keys, np.zeros((0, *grid), np.float16), size)
    finest = (min(grid[0], cams.shape[1]), min(grid[1], cams.shape[2]))
    averaged = F.adaptive_avg_pool2d(torch.from_numpy(cams).unsqueeze(0), finest)[0]
    return Cams(keys, averaged.numpy().astype(np.float16), size)


def encode_clip_es(cams: Cams) -> bytes:
    """Returns the CAMs of an image as a file that CLIP-ES's scripts read.

    It holds ``keys``, K int64, and ``attn_highres``, K×H×W float16, resized to the image's size as
    CLIP-ES does (bilinear). Any version of NumPy reads it.
    """
    content = {
        "keys": np.asarray(cams.keys, np.int64),
        CAMS[0]: cams.resized(*cams.size).astype(np.float16),
    }
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(buffer, header)
    data = pickle.dumps(np.array(content, dtype=object), protocol=3)
    # NumPy 2 renamed a module of its own. Both versions read the old name, which CLIP-ES's NumPy 1
    # needs. The pickle holds the name once, before all values.
    buffer.write(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1))
    return buffer.getvalue()


def _parse(
    content: object, size: tuple[int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns K int64 class indices, and K×h×w float32 in [0, 1].

    Raises:
        ImageError: they are invalid; says why in a phrase that follows the file's name.
    """
    content = content if isinstance(content, Mapping) else {}
    name = next((name for name in CAMS if name in content), None)
    if name is None or "keys" not in content:
        raise ImageError(f"does not hold a dictionary with keys and {' or '.join(CAMS[:2])}")
    keys, given = content["keys"], content[name]
    if isinstance(keys, Sequence) and all(isinstance(k, int) for k in keys):
        keys = np.array(keys, np.int64)
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise ImageError("holds keys that are not class indices")
    unknown = keys[(keys < 0) | (keys >= num_classes)]
    if len(unknown):
        raise ImageError(f"holds class {unknown[0]}: the classes are 0 to {num_classes - 1}")
    if len(np.unique(keys)) < len(keys):
        raise ImageError("holds two CAMs of one class")
    keys = keys.astype(np.int64)
    if isinstance(given, np.ndarray) and (given.ndim == 3 or not given.size):
        given = list(given)
    if not isinstance(given, list):
        raise ImageError("holds CAMs that are not rows and columns of floating-point numbers")
    if len(given) != len(keys):
        raise ImageError(f"holds {len(given)} CAMs for {len(keys)} classes")
    if not len(keys):
        return keys, np.zeros((0, *size), np.float32)
    for cam in given:
        _check_shape(cam, size)
    if len({cam.shape for cam in given}) > 1:
        raise ImageError("holds CAMs of several sizes")
    cams = np.array(given, np.float32)
    if not np.isfinite(cams).all():
        raise ImageError("holds values that are NaN or infinite")
    low, high = float(cams.min()), float(cams.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(f"holds values from {low:.3g} to {high:.3g}, where 0 to 1 is expected")
    return keys, cams.clip(0, 1)


def _check_shape(cam: object, size: tuple[int, int]) -> None:
    """Accepts the CAM of an image of this size, whole or at a fraction of it."""
    if not isinstance(cam, np.ndarray) or cam.ndim != 2 or cam.dtype.kind != "f" or not cam.size:
        raise ImageError("holds CAMs that are not rows and columns of floating-point numbers")
    (height, width), (rows, columns) = size, cam.shape
    # Both sides are the same fraction of the image's, up to a row or a column of rounding.
    fits = abs(rows / height - columns / width) <= 1 / height + 1 / width
    if rows > height or columns > width or not fits:
        raise ImageError(f"holds CAMs of {columns}×{rows} for an image of {width}×{height} pixels")
