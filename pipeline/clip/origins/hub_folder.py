"""CLIPs in the layout of Hugging Face's transformers: OpenAI's, and MetaCLIP 2.

Their weights are renamed into open_clip's CLIP; no code of a repository is read.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions, Normalisation, Pretraining
from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.text import load_tokenizer, of_clip
from pipeline.clip.weights.layouts import (
    TRANSFORMERS_CLIP,
    count_blocks,
    part_of,
    read_floats,
    rename,
)
from pipeline.clip.weights.tokenizers import read_tokenizer
from pipeline.errors import UserError, shown
from pipeline.files.atomic import fits
from pipeline.files.weight_files import Uninitialised

_KINDS = ("clip", "metaclip_2")  # values of model_type
_MAX_SIZE = 2_000_000  # of anything in a configuration
_FILES = {
    "config": ["config.json"],
    "weights": ["model.safetensors", "pytorch_model.bin"],
    "pixels": ["preprocessor_config.json"],
    "tokenizer": ["tokenizer.json"],
}
_TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vocab_size": 49408,  # of OpenAI's tokenizer, which open_clip has
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
"""transformers' defaults, which some of its files leave out."""

_IMAGE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
}
_IMAGE_NAMES = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    *TRANSFORMERS_CLIP,
)


def release_of(name: str | None) -> Release:
    """Returns what ``clip.model=hf:org/name`` is; without a name, what a folder may hold.

    A UserError refuses what cannot be a repository's name.
    """
    repository = (name or "hf:org/name").removeprefix("hf:")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise UserError(f"clip.model={shown(name)} names no repository: give hf:org/name")
    place = f"https://huggingface.co/{repository}/resolve/main"
    return Release(
        name=name or "",
        module=__name__,
        build="pipeline.clip.origins.hub_folder:build",
        about="pipeline.clip.origins.hub_folder:read_about",
        files={part: [f"{place}/{file}" for file in names] for part, names in _FILES.items()},
        optional=("pixels", "tokenizer"),
        what="the model of config.json",
    )


def read_about(files: Mapping[str, Path]) -> tuple[Dimensions, Pretraining]:
    """Returns what the configuration says; a UserError if it is not one of a CLIP."""
    config = _read_config(files["config"])
    image, text = config["vision_config"], config["text_config"]
    dimensions = Dimensions(*(image[k] for k in ("num_hidden_layers", "patch_size", "image_size")))
    acts, norms = ({of[k] for of in (image, text)} for k in ("hidden_act", "layer_norm_eps"))
    if norms != {1e-5} or acts not in ({"quick_gelu"}, {"gelu"}):
        raise UserError(
            f"{files['config']} names an activation or an ε of layer norms that no CLIP has: give"
            " another model"
        )
    pixels = _read(files["pixels"]) if "pixels" in files else {}
    given = [pixels.get(name) for name in ("image_mean", "image_std")]
    normalisation = OPENAI_NORMALISATION
    if given != [None, None]:
        if not fits(given, [[int | float]]) or [*map(len, given)] != [3, 3] or min(given[1]) <= 0:
            raise UserError(
                f"{files['pixels']} does not give the mean and std of pixels: give the model's"
            )
        normalisation = Normalisation(*map(tuple, given))
    return dimensions, Pretraining(normalisation, acts == {"quick_gelu"})


def _read_config(path: Path) -> dict[str, Any]:
    """Reads ``config.json``, with transformers' defaults; all sizes are positive."""
    config = _read(path)
    if (kind := config.get("model_type")) not in _KINDS:
        remedy = (
            "choose clip=tipsv2_b14 or clip=tipsv2_l14"
            if kind == "tipsv2"
            else "give another model, or its weights in open_clip's layout"
        )
        raise UserError(
            f"{path} describes the model {shown(kind)}, and {' and '.join(_KINDS)} are read here:"
            f" {remedy}"
        )
    config.setdefault("projection_dim", 512)
    towers = {}
    for name, usual in (("vision_config", _IMAGE), ("text_config", _TEXT)):
        given = config.get(name)
        towers[name] = usual | (given if isinstance(given, dict) else {})
        sizes = [value for key, value in towers[name].items() if type(usual.get(key)) is int]
        known = isinstance(given, dict | None)
        if not known or not all(type(n) is int and 0 < n <= _MAX_SIZE for n in sizes):
            raise UserError(f"{path} is damaged ({name}): give the model's")
    if type(config["projection_dim"]) is not int or not 0 < config["projection_dim"] <= _MAX_SIZE:
        raise UserError(f"{path} is damaged (projection_dim): give the model's")
    return config | towers


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the CLIP of a folder, on a device."""
    config, (_, pretraining) = _read_config(files["config"]), read_about(files)
    clip = build_clip(config, files["weights"], device, pretraining.quick_gelu)
    tokenizer = partial(_tokenize, config, files.get("tokenizer"))
    return of_clip(clip, pretraining.normalisation, tokenizer)


def build_clip(config: Mapping[str, Any], path: Path, device: str, quick_gelu: bool) -> CLIP:
    """Builds the CLIP of a configuration with the weights of a file."""
    weights, image, text = read_floats(path, device), config["vision_config"], config["text_config"]
    renamed = rename(part_of(weights, "vision_model."), _IMAGE_NAMES)
    named = {f"visual.{name}": tensor for name, tensor in renamed.items()}
    named |= rename(part_of(weights, "text_model."), TRANSFORMERS_CLIP)
    named = {name: v for name, v in named.items() if not name.endswith("position_ids")}
    for of, prefix in ((image, "visual."), (text, "")):
        blocks = part_of(named, f"{prefix}transformer.resblocks.")
        if count_blocks(blocks) != of["num_hidden_layers"]:
            raise ValueError(f"{count_blocks(blocks)} blocks, not {of['num_hidden_layers']}")
    named |= {
        "visual.proj": weights["visual_projection.weight"].T,
        "text_projection": weights["text_projection.weight"].T,
        "logit_scale": weights["logit_scale"],
    }
    image_settings = CLIPVisionCfg(
        layers=image["num_hidden_layers"],
        width=image["hidden_size"],
        mlp_ratio=image["intermediate_size"] / image["hidden_size"],
        head_width=image["hidden_size"] // image["num_attention_heads"],
        patch_size=image["patch_size"],
        image_size=image["image_size"],
    )
    text_settings = CLIPTextCfg(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        mlp_ratio=text["intermediate_size"] / text["hidden_size"],
        heads=text["num_attention_heads"],
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        # OpenAI's files name a wrong end token, 2, at which transformers takes the largest number.
        pool_type="argmax" if _is_openais(config) and text["eos_token_id"] == 2 else "eos",
        eos_id=text["eos_token_id"],
    )
    with torch.device(device), Uninitialised():
        clip = CLIP(config["projection_dim"], image_settings, text_settings, quick_gelu)
    clip.load_state_dict(named)
    return clip.float().eval().requires_grad_(False)


def _is_openais(config: Mapping[str, Any]) -> bool:
    return config["model_type"] == "clip"


def _tokenize(config: Mapping[str, Any], path: Path | None, prompts: list[str]) -> torch.Tensor:
    """Turns N prompts into N×context int64 tokens: by OpenAI's tokenizer, or that of the folder."""
    text = config["text_config"]
    if _is_openais(config) and text["vocab_size"] == _TEXT["vocab_size"]:
        return load_tokenizer(None)(prompts)
    if path is None:
        raise UserError("tokenizer.json is missing: give it beside model.safetensors")
    length, end = text["max_position_embeddings"], text["eos_token_id"]
    numbers_of = read_tokenizer(path, length + 1)
    tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in zip(tokens, prompts):
        numbers = [*numbers_of(prompt)]
        numbers = [*numbers[: length - 1], end] if len(numbers) > length else numbers
        if max(numbers) >= text["vocab_size"]:
            raise UserError(f"{path} is not the tokenizer of the weights: give both of one model")
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: give that of the model") from error
    return found if isinstance(found, dict) else {}
