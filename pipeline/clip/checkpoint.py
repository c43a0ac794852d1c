"""Loading CLIP's weights: by name, from OpenAI's archives, state dicts and safetensors.

Nothing in a weights file is executed. OpenAI's ``.pt`` files are TorchScript archives, that is, zip
files with code, of which only the tensors are read here.
"""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_state_dict
from open_clip.model import CLIP, build_model_from_openai_state_dict
from safetensors import SafetensorError

from pipeline.errors import UserError

_SCRIPT_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_ARCHITECTURE_KEYS = (
    "visual.conv1.weight",
    "visual.proj",
    "visual.positional_embedding",
    "positional_embedding",
    "token_embedding.weight",
    "text_projection",
    "ln_final.weight",
    "logit_scale",
)


def resolve_checkpoint(model: str | None, pretrained: str | None, checkpoint: str | None) -> Path:
    """Returns the weights file: the given one, or the one that open_clip downloads.

    Raises:
        UserError: no such file, no such model, or no network and no file.
    """
    if checkpoint is not None:
        path = Path(checkpoint).expanduser().absolute()
        if not path.is_file():
            raise UserError(
                f"clip.checkpoint={checkpoint} is no file: give the path of the weights"
            )
        return path
    if model is None:
        raise UserError("clip.checkpoint is missing: give the weights, clip.checkpoint=PATH")
    settings = open_clip.get_pretrained_cfg(model, pretrained or "")
    if not settings:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "no weights"
        raise UserError(
            f"open_clip knows {known} for clip.model={model}, not {pretrained}:"
            " give one of these as clip.pretrained, or clip.checkpoint=PATH"
        )
    try:
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # urllib, requests and the hub have a class each for "no network"
        raise UserError(
            f"the weights {model}/{pretrained} could not be downloaded ({type(error).__name__}):"
            " download them elsewhere and give clip.checkpoint=PATH"
        ) from error


def load_clip(path: Path, model_name: str | None = None, quick_gelu: bool = True) -> CLIP:
    """Builds a CLIP model and fills it from a file.

    Args:
        path: an OpenAI TorchScript archive, a PyTorch state dict (bare, or open_clip's training
            checkpoint) or safetensors.
        model_name: open_clip's name of the architecture; none reads it off OpenAI's names in
            the file.
        quick_gelu: whether an architecture that is read off the file uses QuickGELU, as all of
            OpenAI's do.

    Returns:
        The model in float32 on the CPU, in evaluation mode, without gradients.

    Raises:
        UserError: a damaged file, or one for another architecture; names both.
    """
    weights = {k: v for k, v in read_weights(path).items() if k not in _SCRIPT_EXTRAS}
    if model_name is None:
        missing = [key for key in _ARCHITECTURE_KEYS if key not in weights]
        if missing:
            raise UserError(
                f"{path} holds no CLIP with a vision transformer in OpenAI's naming"
                f" ({missing[0]} is missing): give clip.model=NAME along with the file"
            )
        try:
            model = build_model_from_openai_state_dict(dict(weights), quick_gelu, torch.float32)
        except RuntimeError as error:
            raise UserError(f"{path} holds an incomplete CLIP: {_first_mismatch(error)}") from error
    else:
        logging.disable(logging.WARNING)  # that the weights are random; they are replaced below
        try:
            model = open_clip.create_model(model_name, pretrained=None)
        except RuntimeError as error:
            raise UserError(
                f"open_clip has no model {model_name}: open_clip.list_models() shows its names"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{path} holds {describe_architecture(weights)}, not clip.model={model_name}"
                f" ({_first_mismatch(error)}): give that model's file, or that file's model"
            ) from error
    return model.float().eval().requires_grad_(False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a weights file into a state dict, executing nothing that it holds.

    Raises:
        UserError: the file is damaged or in no known format.
    """
    try:
        if _is_torchscript(path):
            return read_torchscript_weights(path)
        return load_state_dict(str(path), device="cpu", weights_only=True)
    except UserError:
        raise
    except (SafetensorError, Exception) as error:  # every reader has errors of its own
        raise UserError(
            f"{path} is damaged or holds no weights ({type(error).__name__}): CLIP weights come as"
            " OpenAI's .pt archive, a PyTorch state dict, or safetensors"
        ) from error


def describe_architecture(weights: Mapping[str, torch.Tensor]) -> str:
    """Says in a few words which vision transformer a state dict belongs to."""
    kernel = weights.get("visual.conv1.weight")
    if kernel is None or kernel.ndim != 4:
        return "no vision transformer"
    blocks = {
        m[1]
        for m in (re.match(r"visual\.transformer\.resblocks\.(\d+)\.", k) for k in weights)
        if m
    }
    return f"a ViT of width {kernel.shape[0]}, patch {kernel.shape[-1]} and {len(blocks)} blocks"


def _first_mismatch(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    text = lines[0] if lines else str(error)
    return text if len(text) <= 120 else text[:117] + "..."


# TorchScript archives


def _is_torchscript(path: Path) -> bool:
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
