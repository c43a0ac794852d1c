"""Loading CLIP's weights: by name, from OpenAI's archives, state dicts and safetensors.

Nothing in a weights file is executed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import build_model_from_openai_state_dict, convert_to_custom_text_state_dict

from pipeline.clip.architectures import (
    REMEDY,
    ClipModel,
    describe_architecture,
    describe_other_tower,
    find_pretrained,
    find_training,
    models_of_other_heads,
)
from pipeline.clip.torchscript import is_torchscript, read_torchscript_weights
from pipeline.errors import UserError
from pipeline.files.weight_files import read_weights_file

_SCRIPT_EXTRAS = ("input_resolution", "context_length", "vocab_size")
_ARCHITECTURE_KEYS = (
    "visual.conv1.weight",
    "visual.class_embedding",
    "visual.ln_pre.weight",
    "visual.proj",
    "visual.positional_embedding",
    "positional_embedding",
    "token_embedding.weight",
    "text_projection",
    "ln_final.weight",
    "logit_scale",
)
_WRAPPED = "module."
_POSITION_IDS = "text.transformer.embeddings.position_ids"
"""A buffer that older versions of transformers stored with their text towers' weights."""


def resolve_checkpoint(model: str | None, pretrained: str | None, checkpoint: str | None) -> Path:
    """Returns the weights file: the given one, or the one that open_clip downloads.

    What the method cannot use is refused before anything is downloaded.

    Args:
        model: open_clip's name of the architecture; none where it is read off the file.
        pretrained: the name of the weights; with a file, that which they were published under, so
            that their pixels and activation are known.
        checkpoint: path of the file.

    Raises:
        UserError: no such file, model or weights, a model that the method cannot use, or no network
            and no file.
    """
    find_training(model, pretrained)
    if checkpoint is not None:
        path = Path(checkpoint).expanduser().absolute()
        if not path.is_file():
            raise UserError(
                f"clip.checkpoint={checkpoint} is no file: give the path of the weights"
            )
        return path
    if model is None:
        raise UserError("clip.checkpoint is missing: give the weights, clip.checkpoint=PATH")
    settings = find_pretrained(model, pretrained)
    try:
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # urllib, requests and the hub have a class each for "no network"
        raise UserError(
            f"the weights {model}/{pretrained} could not be downloaded ({type(error).__name__}):"
            " download them elsewhere and give clip.checkpoint=PATH"
        ) from error


def load_clip(
    path: Path, model_name: str | None = None, pretrained: str | None = None
) -> ClipModel:
    """Builds a CLIP model and fills it from a file.

    Args:
        path: an OpenAI TorchScript archive, a PyTorch state dict (bare, or open_clip's training
            checkpoint) or safetensors.
        model_name: open_clip's name of the architecture; none reads it off OpenAI's names in
            the file, and takes the activation to be QuickGELU, as in all of OpenAI's.
        pretrained: the name that the weights were published under; it decides about the activation.

    Returns:
        The model in float32 on the CPU, in evaluation mode, without gradients.

    Raises:
        UserError: a damaged file, one for another architecture (names both), or an architecture
            that the method cannot use.
    """
    # Before the file is read, which takes long where it is large.
    training = find_training(model_name, pretrained)
    weights = {k: v for k, v in read_weights(path).items() if k not in _SCRIPT_EXTRAS}
    if model_name is None:
        model = _build_from_weights(path, weights)
    else:
        model = _build_by_name(model_name, training.quick_gelu)
        try:
            model.load_state_dict(_rename(weights, model))
        except RuntimeError as error:
            raise UserError(
                f"{path} holds {describe_architecture(weights)}, not clip.model={model_name}"
                f" ({_first_mismatch(error)}): give that model's file, or that file's model"
            ) from error
    return model.float().eval().requires_grad_(False)


def _build_from_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> ClipModel:
    """Builds the architecture that a state dict in OpenAI's naming has, and fills it."""
    if tower := describe_other_tower(weights):
        raise UserError(f"{path} holds {tower}, but {REMEDY}")
    missing = [key for key in _ARCHITECTURE_KEYS if key not in weights]
    if missing:
        raise UserError(
            f"{path} holds no CLIP with a vision transformer in OpenAI's naming"
            f" ({missing[0]} is missing): give clip.model=NAME along with the file"
        )
    if others := models_of_other_heads(weights):
        raise UserError(
            f"{path} holds {describe_architecture(weights)}, whose heads and activation cannot be"
            f" told from the file: give clip.model along with it, {' or '.join(others)}"
        )
    try:
        return build_model_from_openai_state_dict(
            dict(weights), quick_gelu=True, cast_dtype=torch.float32
        )
    except RuntimeError as error:
        raise UserError(
            f"{path} holds a CLIP that is incomplete or not built as OpenAI's are"
            f" ({_first_mismatch(error)}): give clip.model=NAME along with the file"
        ) from error


def _build_by_name(model_name: str, quick_gelu: bool) -> ClipModel:
    """Builds an architecture of open_clip with random weights."""
    logging.disable(logging.WARNING)  # that the weights are random; they are replaced
    try:
        # Without pretrained_text=False the text tower's own weights would be downloaded.
        return open_clip.create_model(
            model_name, pretrained=None, force_quick_gelu=quick_gelu, pretrained_text=False
        )
    except OSError as error:
        raise UserError(
            f"the text tower of clip.model={model_name} could not be built: what transformers knows"
            " of it is downloaded from Hugging Face once; do so on a machine with a network, and"
            " copy its cache (~/.cache/huggingface, or $HF_HOME)"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _rename(weights: Mapping[str, torch.Tensor], model: ClipModel) -> dict[str, torch.Tensor]:
    """Returns weights of older files under the names that the same model has today."""
    renamed = dict(weights)
    if hasattr(model, "text"):
        # The text tower's parts used to be the model's own.
        renamed = convert_to_custom_text_state_dict(renamed)
    if _POSITION_IDS not in model.state_dict():
        renamed.pop(_POSITION_IDS, None)
    return renamed


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a weights file into a state dict, executing nothing that it holds.

    Raises:
        UserError: the file is damaged or in no known format.
    """
    try:
        if is_torchscript(path):
            return read_torchscript_weights(path)
        return _state_dict(read_weights_file(path))
    except UserError:
        raise
    except Exception as error:  # every reader has errors of its own
        raise UserError(
            f"{path} is damaged or holds no weights ({type(error).__name__}): CLIP weights come as"
            " OpenAI's .pt archive, a PyTorch state dict, or safetensors"
        ) from error


def _state_dict(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the weights in what was saved: bare, or open_clip's training checkpoint."""
    weights = checkpoint.get("state_dict", checkpoint)
    # Training in several processes puts a prefix to all names.
    wrapped = all(name.startswith(_WRAPPED) for name in weights)
    tensors = {
        name.removeprefix(_WRAPPED) if wrapped else name: value
        for name, value in weights.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ValueError("there are no tensors")
    return tensors


def _first_mismatch(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    text = lines[0] if lines else str(error)
    return text if len(text) <= 120 else text[:117] + "..."
