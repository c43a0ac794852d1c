"""Weights files that leave a mark where they are read carelessly, or take memory without end."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_BOMB = 2**26  # bytes of zeros, which pack to a thousandth


class Code:
    """Leaves a mark, a folder, when it is unpickled by something that runs code."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickled(path: Path, mark: Path, weights: dict) -> None:
    path.write_bytes(pickle.dumps({"state_dict": weights, "extra": Code(mark)}))


def zipped(path: Path, mark: Path, weights: dict) -> None:
    torch.save({"state_dict": weights, "extra": Code(mark)}, path)


def before_torch_1_6(path: Path, mark: Path, weights: dict) -> None:
    content = {"state_dict": weights, "extra": Code(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def before_torch_0_2(path: Path, mark: Path, weights: dict) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Code(mark) if name == "storages" else {})
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def two_formats_at_once(path: Path, mark: Path, weights: dict) -> None:
    """A pickle of old that ends like a zip archive: tools tell files by one end or the other."""
    before_torch_1_6(path, mark, weights)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/version", "3")


def quarrel(path: Path, mark: Path, weights: dict) -> None:
    """Breaks a careful reader in a way for which some libraries turn to a careless one."""

    class Odd(OrderedDict):
        def __reduce__(self):
            return OrderedDict, (), (None, {})  # a state that is no dictionary

    torch.save({"odd": Odd(), "state_dict": weights, "extra": Code(mark)}, path)


def torchscript_pickle(path: Path, mark: Path, weights: dict) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Code(mark), protocol=2))
        archive.writestr("evil/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("evil/version", "3")


class _Script(torch.nn.Module):
    """TorchScript with a method that runs when it is loaded; it makes a file."""

    def __init__(self, mark: str):
        super().__init__()
        self.mark = mark
        self.weight = torch.nn.Parameter(torch.ones(4))

    @torch.jit.export
    def __getstate__(self):
        return (self.mark, self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]):  # noqa: D105
        self.mark = state[0]
        self.training = state[2]
        self.weight = torch.from_file(state[0], True, 4) + state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def torchscript_code(path: Path, mark: Path, weights: dict) -> None:
    torch.jit.save(torch.jit.script(_Script(str(mark))), path)


def load_carelessly(path: Path) -> Any:
    """Reads a file of any of these formats as many programs still do."""
    return torch.load(path, weights_only=False)


def load_pickle_of_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("evil/data.pkl"))


LIVE: dict[str, tuple[Callable[[Path, Path, dict], None], Callable[[Path], Any]]] = {
    "a bare pickle": (pickled, lambda path: pickle.loads(path.read_bytes())),
    "a pickle in a zip archive": (zipped, load_carelessly),
    "the format before torch 1.6": (before_torch_1_6, load_carelessly),
    "the tar format before torch 0.2": (before_torch_0_2, load_carelessly),
    "two formats at once": (two_formats_at_once, load_carelessly),
    "a state that breaks careful readers": (quarrel, load_carelessly),
    "TorchScript with a pickle of its own": (torchscript_pickle, load_pickle_of_archive),
    "TorchScript whose code runs when loaded": (torchscript_code, torch.jit.load),
}
"""What is tried → what writes (path, mark, weights), and what reads it carelessly."""


class _Tensor:
    """A tensor of four values that says of itself what it likes."""

    def __init__(self, offset: int, size: tuple, stride: tuple):
        self.claims = offset, size, stride

    def __reduce__(self):
        storage = torch.arange(4.0)._typed_storage()
        return torch._utils._rebuild_tensor_v2, (storage, *self.claims, False, OrderedDict())


ABSURD = {
    "an offset before its start": (-3, (2,), (1,)),
    "an offset beyond its end": (2**62, (2,), (1,)),
    "more values than it has": (2, (8,), (1,)),
    "a gigabyte beyond its end": (0, (2**28,), (1,)),
    "a terabyte of one value": (0, (2**20, 2**20), (0, 0)),
    "a size that overflows": (0, (2**62, 2**62), (1, 1)),
    "a negative stride": (3, (2,), (-1,)),
    "a negative size": (0, (-4,), (1,)),
}
"""What a tensor claims → offset, size and stride."""


def absurd_state(path: Path, claims: tuple) -> None:
    torch.save({"state_dict": {"weight": _Tensor(*claims)}}, path)


def absurd_script(path: Path, claims: tuple) -> None:
    write_script(path, {"weight": _Stored("FloatStorage", *claims)})


class _Stored:
    """A tensor of TorchScript in a storage of a given kind."""

    def __init__(self, kind: str, offset: int, size: tuple, stride: tuple):
        self.kind, self.claims = kind, (offset, size, stride)


class _ScriptPickler(pickle._Pickler):
    """Writes tensors as TorchScript does; the pickler in Python can be taught that."""

    def save(self, obj: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(obj, _Stored):
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            self.write(f"(X\x07\x00\x00\x00storagectorch\n{obj.kind}\n".encode())
            for value in ("0", "cpu", 4):
                super().save(value)
            self.write(b"tQ")
            for value in (*obj.claims, False):
                super().save(value)
            self.write(b"ccollections\nOrderedDict\n)RtR")
        else:
            super().save(obj, *args, **kwargs)


def write_script(path: Path, attributes: dict, stored: bytes = bytes(16)) -> None:
    """Writes a TorchScript archive of one module with these attributes."""
    buffer = io.BytesIO()
    buffer.write(b"\x80\x02c__torch__\nModule\n)\x81")
    pickler = _ScriptPickler(buffer, protocol=2)
    pickler.save(attributes)
    write_archive(path, buffer.getvalue() + b"b.", stored)


def write_archive(path: Path, data: bytes, stored: bytes = bytes(16)) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/data/0", stored)
        archive.writestr("model/constants.pkl", pickle.dumps((), protocol=2))


def unknown_storage(path: Path) -> None:
    write_script(path, {"weight": _Stored("ComplexFloatStorage", 0, (2,), (1,))})


def endless_modules(path: Path, levels: int = 60) -> None:
    """Modules that hold the one before twice: 2**levels of them, in some kilobytes."""
    data = bytearray(b"\x80\x02c__torch__\nModule\n)\x81q\x00")
    for level in range(1, levels):
        held = bytes([level - 1])
        data += b"c__torch__\nModule\n)\x81}("
        data += b"X\x01\x00\x00\x00ah" + held + b"X\x01\x00\x00\x00bh" + held + b"ubq"
        data += bytes([level])
    write_archive(path, bytes(data) + b".")


def module_within_itself(path: Path) -> None:
    data = b"\x80\x02c__torch__\nModule\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    write_archive(path, data)


def state_bomb(path: Path) -> None:
    """A state dict whose zeros are compressed, which PyTorch reads."""
    plain = path.with_name("plain.pt")
    torch.save({"weight": torch.zeros(_BOMB // 4)}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as write:
        for name in read.namelist():
            write.writestr(name, read.read(name))
    assert path.stat().st_size < _BOMB / 100


def script_bomb(path: Path) -> None:
    write_script(path, {"weight": _Stored("FloatStorage", 0, (_BOMB // 4,), (1,))}, bytes(_BOMB))
    plain = path.read_bytes()
    with (
        zipfile.ZipFile(io.BytesIO(plain)) as read,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as write,
    ):
        for name in read.namelist():
            write.writestr(name, read.read(name))


GREEDY = {
    "TorchScript with a storage of an unknown kind": unknown_storage,
    "TorchScript modules without end": endless_modules,
    "a TorchScript module within itself": module_within_itself,
    "a compressed state dict": state_bomb,
    "a compressed TorchScript archive": script_bomb,
}
"""What is tried → what writes it."""
