"""Files of weights, read as tensors and plain values, without running any code in them.

A file may also claim far more memory than its own size, by compression or by tensors that repeat
their values. Libraries write no such files, and these are refused.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from pipeline.errors import UserError

_SLACK = 2**24
"""Bytes allowed beyond a file's own size: code and names may be compressed, weights never are."""

_COMPUTED_WITH = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Oversized(ValueError):
    """A file whose contents would take more memory than the file itself is large."""


class Uninitialised(TorchFunctionMode):
    """Builds modules without drawing their weights, all of which a file then replaces.

    To draw those of a ViT-B/16 takes longer than to read them.
    """

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        """Calls what PyTorch calls, except for the functions of ``torch.nn.init``."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **kwargs)


def read_weights_file(path: Path, device: str = "cpu") -> Any:  # noqa: ANN401
    """Reads a safetensors file, or a file of ``torch.save``, whatever PyTorch's defaults are.

    The suffix ``.safetensors`` marks safetensors. The saved object is usually a dictionary of
    tensors, or one that holds such a dictionary. The device "meta" stands for shapes alone. Raises
    an error of its format if the file is damaged or holds more than tensors and plain values.
    """
    if path.suffix == ".safetensors":
        return {name: tensor.to(device) for name, tensor in load_file(path).items()}
    check_archive(path)
    # timm and others store the arguments of the training beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location=device, weights_only=True)
    storages: dict[int, int] = {}
    for tensor in _tensors(content):
        check_extent(tensor, device)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    # PyTorch enlarges a storage if a tensor reaches beyond it.
    if sum(storages.values()) > path.stat().st_size + _SLACK:
        raise Oversized(f"its tensors take {sum(storages.values())} bytes")
    return content


def check_archive(path: Path) -> None:
    """Raises Oversized unless a zip archive unpacks to about its own size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size + _SLACK:
        raise Oversized(f"{path} unpacks to {unpacked} bytes")


def check_extent(tensor: torch.Tensor, device: str = "cpu") -> None:
    """Raises Oversized if a tensor, read for a device, has fewer values than elements.

    A copy of one that repeats values would be larger than the file.
    """
    has_values = not tensor.is_meta or device == "meta"
    if not has_values or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise Oversized(f"a tensor of shape {tuple(tensor.shape)} has fewer values than that")


def check_finite(weights: Mapping[str, torch.Tensor], origin: str | Path) -> None:
    """Raises a UserError if one of the weights, which come from ``origin``, is NaN or infinite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{origin} holds weights that are not finite ({name}): give another file"
            )


def refuse_quantised(weights: Mapping[str, torch.Tensor], origin: str | Path) -> None:
    """Raises a UserError if weights, which come from ``origin``, are not floating-point.

    They are integers then, or of a format that needs factors from elsewhere.
    """
    for name, tensor in weights.items():
        if name.endswith(".weight") and tensor.dtype not in _COMPUTED_WITH:
            raise UserError(
                f"{origin} holds {name} as {tensor.dtype}: give weights that are not quantised"
            )


def _tensors(content: object) -> Iterator[torch.Tensor]:
    pending, seen = [content], set()
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # visit repeated references once
            pending += value.values() if isinstance(value, Mapping) else value


def is_torchscript(path: Path) -> bool:
    """Tells whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())
