"""Reading OpenAI's TorchScript archives without running them.

Such an archive is a zip file with code, a pickled tree of modules, and the tensors' bytes. The code
is never read; from the tree only modules and tensors are loaded.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.files.weight_files import check_archive, check_extent

_MAX_MODULES = 100_000  # modules allowed in an archive; the largest CLIPs have a few thousand

_STORAGE_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""The name of a class of storages → the type of its values."""


def read_torchscript_weights(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Reads the parameters and buffers of a TorchScript archive without running its code.

    Tensors of one storage share their memory. The device "meta" stands for shapes alone.

    Raises:
        UserError: the archive refers to something that is neither a module nor a tensor.
        Oversized: its contents would take more memory than the file is large.
        Exception: it is damaged.
    """
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickled = next(n for n in names if n.count("/") == 1 and n.endswith("/data.pkl"))
        root = _ScriptReader(archive, pickled.removesuffix("data.pkl"), path, device).load()
    return dict(_tensors(root, "", count()))


class _ScriptModule:
    """A stand-in for any module of a TorchScript archive, with its attributes and no code."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


class _ScriptReader(pickle.Unpickler):
    """Unpickles an archive's tree of modules and tensors, and refuses anything else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path, device: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive = archive
        self._folder = folder
        self._path = path
        self._device = device
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        """Maps the allowed names to harmless stand-ins."""
        if module.startswith("__torch__"):
            return _ScriptModule
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch.jit._pickle":  # typed containers; the container is enough
            return lambda value=None, *_: value
        raise UserError(f"{self._path} refers to {module}.{name}, which weights do not need")

    def persistent_load(self, reference: tuple) -> torch.Tensor:
        """Returns the flat tensor of a storage record."""
        _, dtype, key, _, _ = reference
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if self._device == "meta" or not entry.file_size:
                storage = torch.empty(entry.file_size, dtype=torch.uint8, device=self._device)
            else:
                storage = torch.frombuffer(bytearray(self._archive.read(entry)), dtype=torch.uint8)
            self._storages[key] = storage
        return self._storages[key].view(dtype)


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object
) -> torch.Tensor:
    tensor = torch.as_strided(storage, size, stride, offset)  # refuses elements outside the storage
    check_extent(tensor, storage.device.type)
    return tensor


def _tensors(
    module: _ScriptModule, prefix: str, visits: Iterator[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors of a module and its submodules, by their dotted names."""
    if next(visits) > _MAX_MODULES:  # modules that contain each other would never end
        raise ValueError("too many modules")
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _ScriptModule):
            yield from _tensors(value, f"{prefix}{name}.", visits)
