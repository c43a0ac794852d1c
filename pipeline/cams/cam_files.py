"""Imported CAMs: ``<id>.npz``, as the stage ``cams`` stores them (:mod:`pipeline.cams.cams`)."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.cams.cams import Cams
from pipeline.errors import ImageError
from pipeline.files.images import refuse_special_file

_ROUNDING = 1e-3  # float16 and a resize may exceed 1 by this

_SLACK = 2**16
"""Bytes allowed beyond a CAM of each class in the image's size, float64: headers and indices."""


def read_cam_file(
    path: Path, size: tuple[int, int], grid: tuple[int, int], num_classes: int
) -> Cams:
    """Reads the CAMs of an image from a file of NumPy's, without pickle.

    CAMs finer than the grid are averaged over the area of each of its cells; others stay.

    Args:
        path: the ``.npz`` file: ``keys``, K class indices; ``cams``, K×h×w floating-point numbers
            in [0, 1], in about the image's aspect ratio; perhaps ``size``, the image's height and
            width in pixels. Other arrays are not read.
        size: height and width of the image in pixels.
        grid: rows and columns of the result.
        num_classes: n; class indices are 0 to n-1.

    Raises:
        ImageError: the file is missing, damaged or larger than such CAMs can be, or the CAMs are of
            another image or other classes, or not in [0, 1].
    """
    try:
        refuse_special_file(path)
        arrays = _read_arrays(path, 8 * num_classes * size[0] * size[1] + _SLACK)
        keys, cams = _check(arrays, size, num_classes)
    except FileNotFoundError as error:
        raise ImageError(f"has no CAMs: {path} is missing") from error
    except ImageError as error:
        raise ImageError(f"its CAMs cannot be used: {path} {error}") from error
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own
        reason = f"is damaged, or not a file of np.savez ({type(error).__name__})"
        raise ImageError(f"its CAMs cannot be used: {path} {reason}") from error
    if not len(keys):
        return Cams(keys, np.zeros((0, *grid), np.float16), size)
    finest = (min(grid[0], cams.shape[1]), min(grid[1], cams.shape[2]))
    averaged = F.adaptive_avg_pool2d(torch.from_numpy(cams).unsqueeze(0), finest)[0]
    return Cams(keys, averaged.numpy().astype(np.float16), size)


def _read_arrays(path: Path, limit: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; each takes at most ``limit`` bytes, as does the file.

    Raises:
        ImageError: they are missing or larger; says so in a phrase that follows the file's name.
    """
    too_large = ImageError(f"takes more than the {limit} bytes that CAMs of this image may take")
    if path.stat().st_size > limit:
        raise too_large
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        if not {"keys", "cams"} <= members.keys():
            raise ImageError("does not hold keys and cams")
        for name in members.keys() & {"keys", "cams", "size"}:
            member = members[name]
            # Other methods of compression, which NumPy does not write, take memory without limit.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ImageError("is compressed in a way that NumPy does not use")
            if member.file_size > limit:
                raise too_large
            with archive.open(member) as file:
                data = io.BytesIO(file.read(member.file_size))
            arrays[name] = np.lib.format.read_array(data, allow_pickle=False)
    return arrays


def _check(
    arrays: Mapping[str, np.ndarray], size: tuple[int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns K int64 class indices, and K×h×w float32 in [0, 1].

    Raises:
        ImageError: they are invalid; says why in a phrase that follows the file's name.
    """
    keys, cams, (height, width) = arrays["keys"], arrays["cams"], size
    if not (keys.size or cams.size):
        return np.zeros(0, np.int64), np.zeros((0, *size), np.float32)
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise ImageError("holds keys that are not class indices")
    unknown = keys[(keys < 0) | (keys >= num_classes)]
    if len(unknown):
        raise ImageError(f"holds class {unknown[0]}: the classes are 0 to {num_classes - 1}")
    if len(np.unique(keys)) < len(keys):
        raise ImageError("holds two CAMs of one class")
    if cams.ndim != 3 or cams.dtype.kind != "f" or not cams.size:
        raise ImageError("holds CAMs that are not rows and columns of floating-point numbers")
    if len(cams) != len(keys):
        raise ImageError(f"holds {len(cams)} CAMs for {len(keys)} classes")
    if "size" in arrays and arrays["size"].tolist() != [height, width]:
        raise ImageError(f"holds CAMs of an image that does not have {width}×{height} pixels")
    _, rows, columns = cams.shape
    # Both sides are the same fraction of the image's, up to a row or a column of rounding.
    if abs(rows / height - columns / width) > 1 / height + 1 / width:
        raise ImageError(f"holds CAMs of {columns}×{rows} for an image of {width}×{height} pixels")
    cams = cams.astype(np.float32)
    if not np.isfinite(cams).all():
        raise ImageError("holds values that are NaN or infinite")
    low, high = float(cams.min()), float(cams.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(f"holds values from {low:.3g} to {high:.3g}, where 0 to 1 is expected")
    return keys.astype(np.int64), cams.clip(0, 1)
