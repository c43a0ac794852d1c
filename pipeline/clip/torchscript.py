"""Reading OpenAI's TorchScript archives without running them.

Such an archive is a zip file with code, a pickled tree of modules, and the tensors' bytes. Of these
only the tree and the tensors are read, and of the tree only modules and tensors.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError


def is_torchscript(path: Path) -> bool:
    """Returns whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads the parameters and buffers of a TorchScript archive without running its code.

    Raises:
        UserError: the archive refers to something that is neither a module nor a tensor.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = next(n for n in names if n.count("/") == 1 and n.endswith("/data.pkl"))
        reader = _ScriptReader(archive, pickled.removesuffix("data.pkl"), path)
        root = reader.load()
    weights: dict[str, torch.Tensor] = {}
    _collect_tensors(root, "", weights)
    return weights


class _ScriptModule:
    """Stands for any module of a TorchScript archive: its attributes and nothing else."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


class _ScriptReader(pickle.Unpickler):
    """Unpickles an archive's module tree; knows module stand-ins and tensors, refuses the rest."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive = archive
        self._folder = folder
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Maps the names that may stand in an archive to harmless stand-ins."""
        if module.startswith("__torch__"):
            return _ScriptModule
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name.endswith("Storage"):
            return name
        if module == "torch.jit._pickle":  # typed containers: the container is enough
            return lambda value=None, *_: value
        raise UserError(f"{self._path} refers to {module}.{name}, which no weights file needs")

    def persistent_load(self, reference: tuple) -> torch.Tensor:
        """Returns the flat tensor that a storage record refers to."""
        _, kind, key, _, _ = reference
        dtype = _STORAGE_DTYPES[kind]
        data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


_STORAGE_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any
) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def _collect_tensors(module: Any, prefix: str, into: dict[str, torch.Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            into[prefix + name] = value
        elif isinstance(value, _ScriptModule):
            _collect_tensors(value, f"{prefix}{name}.", into)
