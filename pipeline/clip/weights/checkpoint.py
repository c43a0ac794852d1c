"""Loading CLIP's weights, by name or from OpenAI's archives, state dicts and safetensors.

No code in a weights file is executed.
"""

from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from open_clip.model import build_model_from_openai_state_dict, convert_to_custom_text_state_dict

from pipeline.clip.architectures import (
    REMEDY,
    ClipModel,
    describe_architecture,
    models_of_other_heads,
    without_log,
)
from pipeline.clip.weights.published import find_pretraining
from pipeline.clip.weights.torchscript import read_torchscript_weights
from pipeline.errors import UserError
from pipeline.files.weight_files import (
    Uninitialised,
    check_finite,
    is_torchscript,
    read_weights_file,
    refuse_quantised,
)

_EXTRAS = (
    "input_resolution",
    "context_length",
    "vocab_size",
    "text.transformer.embeddings.position_ids",
)
"""Entries of OpenAI's archives and files of older versions that are not weights."""

_MISSHAPEN = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)
"""Errors of open_clip for weights whose dimensions do not fit."""


@torch.random.fork_rng(devices=[])  # open_clip draws some weights, which are replaced
def load_clip(
    path: Path, model_name: str | None = None, pretrained: str | None = None, device: str = "cpu"
) -> ClipModel:
    """Builds a CLIP with the weights of a file: in float32, for evaluation, without gradients.

    Args:
        path: OpenAI's TorchScript archive, a PyTorch state dict (alone, or in open_clip's training
            checkpoint) or safetensors.
        model_name: open_clip's name of the architecture; none infers it from a file with OpenAI's
            names, whose activation is then QuickGELU.
        pretrained: the name under which the weights were published; it decides the activation.
        device: "cpu", or "meta" for a model without values.

    Raises:
        UserError: a damaged file, one for another architecture (names both), an architecture that
            the method cannot use, or weights that are quantised or not finite.
    """
    # Checked first, since a large file takes long to read.
    pretraining = find_pretraining(model_name, pretrained)
    weights = read_weights(path, device)
    refuse_quantised(weights, path)
    with torch.device(device), Uninitialised():
        if model_name is None:
            model = _build_from_weights(path, weights)
        else:
            model, named = build_by_name(model_name, pretraining.quick_gelu), weights
            if hasattr(model, "text"):  # whose parts used to be parts of the model itself
                named = convert_to_custom_text_state_dict(dict(weights))
            known = model.state_dict()
            named = {k: v for k, v in named.items() if k in known or k not in _EXTRAS}
            try:
                model.load_state_dict(named)
            except RuntimeError as error:
                raise UserError(
                    f"{path} holds {describe_architecture(weights)}, not clip.model={model_name}"
                    f" ({_first_mismatch(error)}): give that model's file, or that file's model"
                ) from error
    if device != "meta":
        check_finite(model.state_dict(), path)
    return model.float().eval().requires_grad_(False)


def _build_from_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> ClipModel:
    """Builds the architecture of a state dict with OpenAI's names, and loads it."""
    if "visual.proj" not in weights:
        raise UserError(f"{path} holds {describe_architecture(weights)}, but {REMEDY}")
    try:
        if others := models_of_other_heads(weights):
            raise UserError(
                f"{path} holds {describe_architecture(weights)}; the number of its heads and its"
                " activation are not in the file: give clip.model along with it,"
                f" {' or '.join(others)}"
            )
        return build_model_from_openai_state_dict(
            dict(weights), quick_gelu=True, cast_dtype=torch.float32
        )
    except KeyError as error:
        raise UserError(
            f"{path} does not hold a CLIP with a vision transformer and OpenAI's names"
            f" ({error.args[0]} is missing): give clip.model=NAME along with the file"
        ) from error
    except _MISSHAPEN as error:
        raise UserError(
            f"{path} holds a CLIP that is incomplete or not built as OpenAI's are"
            f" ({_first_mismatch(error)}): give clip.model=NAME along with the file"
        ) from error


@without_log()  # that the weights are random
def build_by_name(model_name: str, quick_gelu: bool = False) -> ClipModel:
    """Builds an architecture of open_clip with random weights, on torch's default device."""
    try:
        # pretrained_text=False, or the text tower's own weights would be downloaded.
        return open_clip.create_model(
            model_name,
            pretrained=None,
            force_quick_gelu=quick_gelu,
            pretrained_text=False,
            device=torch.get_default_device(),
        )
    except OSError as error:
        raise UserError(
            f"the text tower of clip.model={model_name} could not be built: transformers downloads"
            " its configuration from Hugging Face once; do so on a machine with a network, and"
            " copy its cache (~/.cache/huggingface, or $HF_HOME)"
        ) from error


def read_weights(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Reads a weights file into a state dict, without executing code in it.

    On the device "meta" tensors have no values. Of a safetensors file, none are read until used.
    A training's checkpoint may hold averaged weights, which then count, as in timm.
    Raises a UserError if the file is damaged or has an unknown format.
    """
    try:
        if is_torchscript(path):
            return read_torchscript_weights(path, device)
        checkpoint = read_weights_file(path, device)
        weights = checkpoint.get("state_dict_ema") or checkpoint.get("state_dict", checkpoint)
        tensors = {
            name.removeprefix("module."): value  # the prefix of training in several processes
            for name, value in weights.items()
            if isinstance(value, torch.Tensor)
        }
        if not tensors:
            raise ValueError("the file holds no tensors")
        return tensors
    except (UserError, MemoryError):
        raise
    except Exception as error:  # every reader raises errors of its own
        raise UserError(
            f"{path} is damaged or holds no weights ({type(error).__name__}): give OpenAI's .pt"
            " archive, a PyTorch state dict or safetensors"
        ) from error


def _first_mismatch(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    text = lines[0] if lines else str(error)
    return text if len(text) <= 120 else text[:117] + "..."
