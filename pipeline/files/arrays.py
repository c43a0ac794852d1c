"""NumPy's ``.npz`` files as bytes, to be written with the others of a result."""

from __future__ import annotations

import io

import numpy as np


def encode_arrays(**arrays: np.ndarray) -> bytes:
    """Returns arrays by their names as a ``.npz`` file, which is not compressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
