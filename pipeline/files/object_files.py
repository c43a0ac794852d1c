"""NumPy's files of a Python object, ``np.save(path, {...})``, read without running code in them.

Such a file is a pickle, and a pickle may call anything. This reader accepts only the names that
NumPy and PyTorch need for arrays, and does not call even those: stand-ins record an array's parts,
which are checked before the array is made.
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.files.weight_files import check_extent, read_storage

_NUMBERS = frozenset("?bhilqBHILQefd")  # NumPy's codes of booleans, integers and floats

_REFUSED = frozenset(
    ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4")
    + ("LONG4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "FROZENSET")
)
"""Operations that pickles of arrays and plain values do not use: other ways of making objects."""


class NotPlain(ValueError):
    """A file that holds more than arrays and plain values; the text follows the file's name."""


def read_object_file(path: Path) -> object:
    """Reads a Python object from a file of ``np.save``: a zero-dimensional array that holds it.

    It returns dictionaries, lists, tuples, numbers, text, and NumPy's arrays of numbers, which
    PyTorch's tensors become too. Raises a NotPlain if the file names a function or a class that no
    array needs, or holds no object, and errors of NumPy, pickle and PyTorch if it is damaged.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
        if dtype != np.dtype(object) or shape != ():
            raise NotPlain(f"holds an array of {dtype}, where a dictionary is expected")
        data = file.read()
    # First, without running any, refuse operations that arrays do not need or that take memory.
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in _REFUSED:
            raise NotPlain(f"uses {operation.name}, which no array needs")
        # pickle allocates as many places as the largest index of a remembered value.
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(data):
            raise NotPlain("remembers more values than it holds")
    root = _Reader(io.BytesIO(data), encoding="latin1").load()  # also of pickles of Python 2
    if not isinstance(root, _Array):
        raise NotPlain("does not hold an array")
    _, shape, dtype, _, objects = root.state
    if not dtype.is_object or shape != () or len(objects) != 1:
        raise NotPlain("does not hold a single object")
    content = objects[0]
    if isinstance(content, dict):
        return {key: _resolve(value) for key, value in content.items()}
    return _resolve(content)


class _Reader(pickle.Unpickler):
    """Replaces the names that arrays need by stand-ins, and refuses all others."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Returns the stand-in for a name."""
        if (stand_in := _STAND_INS.get((module, name))) is None:
            raise NotPlain(f"refers to {module}.{name}, which no array needs")
        # A new function each time, since a pickle may change its attributes.
        return lambda *given: stand_in(*given)


class _StandIn:
    """Records an object's parts."""

    def __setstate__(self, state: tuple) -> None:
        raise NotPlain("changes an object in a way that no array needs")


class _Dtype(_StandIn):
    """The type of an array's elements."""

    def __init__(self, code: str, *_: object):
        self._code = code
        self._order = "|"
        self.is_object = code in ("O", "O8")

    def __setstate__(self, state: tuple) -> None:
        _, self._order, subarray, names, fields, *_ = state
        if any(part is not None for part in (subarray, names, fields)):
            raise NotPlain("holds an array of records")

    def resolve(self) -> np.dtype:
        """Returns NumPy's dtype."""
        dtype = np.dtype(self._code) if isinstance(self._code, str) else None
        if dtype is None or dtype.char not in _NUMBERS:
            raise NotPlain("holds an array whose elements are not numbers")
        return dtype.newbyteorder("<" if self._order == "|" else self._order)


class _Array(_StandIn):
    def __init__(self, *_: object):
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def content(self) -> np.ndarray:
        """Returns the array, read-only."""
        _, shape, dtype, fortran, data = self.state
        data, dtype = _to_bytes(data), dtype.resolve()
        if math.prod(shape) * dtype.itemsize != len(data):
            raise NotPlain("holds an array whose shape does not fit its bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class _Storage(_StandIn):
    """The memory of PyTorch tensors."""

    def __init__(self, data: bytes):
        self.values = read_storage(_to_bytes(data))


class _Tensor(_StandIn):
    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: object):
        # PyTorch refuses a view outside the storage.
        self._tensor = torch.as_strided(storage.values, size, stride, offset)
        check_extent(self._tensor)

    def content(self) -> np.ndarray:
        """Returns the tensor as an array; bfloat16, which NumPy lacks, becomes float32."""
        tensor = self._tensor
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _scalar(dtype: _Dtype, data: bytes | str) -> int | float | bool:
    return np.frombuffer(_to_bytes(data), dtype.resolve(), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Returns the bytes that older protocols of pickle write as text."""
    if encoding != "latin1":
        raise NotPlain("holds text in a form that no array needs")
    return text.encode("latin1")


def _refuse(*_: object) -> None:
    raise NotPlain("makes an array in a way that NumPy does not")


def _to_bytes(data: bytes | str) -> bytes:
    """Returns bytes, which Python 2 pickled as text."""
    return data.encode("latin1") if isinstance(data, str) else data


def _resolve(value: object) -> object:
    """Replaces stand-ins by arrays, also in a list."""
    # One level of lists only: nested lists that share their elements would expand without end.
    if isinstance(value, list | tuple):
        return [v.content() if isinstance(v, _Array | _Tensor) else v for v in value]
    return value.content() if isinstance(value, _Array | _Tensor) else value


_STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # before NumPy 2
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _refuse,
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("collections", "OrderedDict"): OrderedDict,
}
"""Module and name → stand-in."""
