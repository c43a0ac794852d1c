"""NumPy's files of a Python object, ``np.save(path, {...})``, read without running what they hold.

Such a file is a pickle, and a pickle may call anything. Of all that one may name, only what NumPy
and PyTorch need for arrays is known here, and even that is not called: stand-ins note what an array
would be made from, and it is made when that was checked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.files.weight_files import check_extent, read_storage

_NUMBERS = frozenset("?bhilqBHILQefd")  # NumPy's codes of booleans, integers and floats
_NUMPY_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")  # of NumPy 2, and before

_REFUSED = frozenset(
    ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4")
    + ("LONG4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "FROZENSET")
)
"""What a pickle of arrays and plain values does not do: further ways of making objects."""

_MEMO = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


class NotPlain(ValueError):
    """A file that holds something else than arrays and plain values, in a few words."""


def read_object_file(path: Path) -> Any:  # noqa: ANN401
    """Reads what ``np.save`` wrote of a Python object.

    Args:
        path: a ``.npy`` file that holds an array of no dimensions of one object.

    Returns:
        The object: dictionaries, lists, tuples, numbers, text, and NumPy's arrays of numbers.
        PyTorch's tensors are such arrays too.

    Raises:
        NotPlain: it names a function or a class that no array needs, or holds no object.
        Exception: the file is damaged; NumPy, pickle and PyTorch have errors of their own.
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
    _check_operations(data)
    root = _Reader(io.BytesIO(data)).load()
    if not isinstance(root, _Array):
        raise NotPlain("holds no array")
    return _resolve(root.only_object())


def _check_operations(data: bytes) -> None:
    """Looks through a pickle's operations without doing any.

    Raises:
        NotPlain: one of them is none that arrays need, or would take memory without end.
    """
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in _REFUSED:
            raise NotPlain(f"does {operation.name}, which no array needs")
        # pickle makes room for as many values as the largest number that one is remembered by.
        if operation.name in _MEMO and argument > len(data):
            raise NotPlain("remembers more values than it holds")


class _Reader(pickle.Unpickler):
    """Knows stand-ins for what NumPy and PyTorch make arrays from, and refuses the rest."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")  # for what Python 2 wrote

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Returns the stand-in for a name."""
        for modules, known, stand_in in _KNOWN:
            if module in modules and name == known:
                # A new function each time, since a pickle may change what it was given.
                return lambda *given, stand_in=stand_in: stand_in(*given)
        raise NotPlain(f"refers to {module}.{name}, which no array needs")


class _StandIn:
    """Notes what an object would be made from."""

    def __setstate__(self, state: Any) -> None:
        raise NotPlain("changes an object in a way that no array needs")


class _Dtype(_StandIn):
    """What an array's elements are."""

    def __init__(self, code: str, *_: Any):
        self._code = code
        self._order = "|"

    def __setstate__(self, state: tuple) -> None:
        _, self._order, subarray, names, fields, *_ = state
        if any(part is not None for part in (subarray, names, fields)):
            raise NotPlain("holds an array of records")

    @property
    def is_object(self) -> bool:
        """Whether they are objects and not numbers."""
        return self._code in ("O", "O8")

    def resolve(self) -> np.dtype:
        """Returns NumPy's own."""
        dtype = np.dtype(self._code) if isinstance(self._code, str) else None
        if dtype is None or dtype.char not in _NUMBERS:
            raise NotPlain("holds an array of something else than numbers")
        return dtype.newbyteorder("<" if self._order == "|" else self._order)


class _Array(_StandIn):
    """An array of NumPy's."""

    def __init__(self, *_: Any):
        self._state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self._state = state

    def content(self) -> np.ndarray:
        """Returns the array, which nobody can write to."""
        _, shape, dtype, fortran, data = self._state
        data, dtype = _to_bytes(data), dtype.resolve()
        if math.prod(shape) * dtype.itemsize != len(data):
            raise NotPlain("holds an array of another shape than it has bytes for")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    def only_object(self) -> Any:  # noqa: ANN401
        """Returns the object of an array of no dimensions."""
        _, shape, dtype, _, objects = self._state
        if not dtype.is_object or shape != () or len(objects) != 1:
            raise NotPlain("holds no single object")
        return objects[0]


class _Storage(_StandIn):
    """The memory of PyTorch's tensors."""

    def __init__(self, data: bytes):
        self.values = read_storage(_to_bytes(data))


class _Tensor(_StandIn):
    """A tensor of PyTorch's."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any):
        # PyTorch refuses what lies outside.
        self._tensor = torch.as_strided(storage.values, size, stride, offset)
        check_extent(self._tensor)

    def content(self) -> np.ndarray:
        """Returns the same as an array; NumPy has no bfloat16."""
        tensor = self._tensor
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _scalar(dtype: _Dtype, data: bytes | str) -> int | float | bool:
    """Returns one number of NumPy's as a plain one."""
    return np.frombuffer(_to_bytes(data), dtype.resolve(), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Does what pickle's older protocols write in place of bytes."""
    if encoding != "latin1":
        raise NotPlain("holds text in a form that no array needs")
    return text.encode("latin1")


def _refuse(*_: Any) -> None:
    raise NotPlain("makes an array in a way that NumPy does not")


def _to_bytes(data: bytes | str) -> bytes:
    """Returns what Python 2 took for text as the bytes that it is."""
    return data.encode("latin1") if isinstance(data, str) else data


def _resolve(value: Any) -> Any:  # noqa: ANN401
    """Replaces stand-ins by arrays, in a dictionary and in the lists that it holds."""
    if isinstance(value, dict):
        return {key: _resolve_one(inner) for key, inner in value.items()}
    return _resolve_one(value)


def _resolve_one(value: Any) -> Any:  # noqa: ANN401
    # One level of lists alone: where they hold each other, all that they stand for has no end.
    if isinstance(value, list | tuple):
        return [v.content() if isinstance(v, _Array | _Tensor) else v for v in value]
    return value.content() if isinstance(value, _Array | _Tensor) else value


_KNOWN: tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...] = (
    (_NUMPY_MODULES, "_reconstruct", _Array),
    (_NUMPY_MODULES, "scalar", _scalar),
    (("numpy",), "dtype", _Dtype),
    (("numpy",), "ndarray", _refuse),
    (("_codecs",), "encode", _encode),
    (("torch._utils",), "_rebuild_tensor_v2", _Tensor),
    (("torch.storage",), "_load_from_bytes", _Storage),
    (("collections",), "OrderedDict", OrderedDict),
)
"""Modules, a name in them, and what stands in for it."""
