"""CLIPs in the layout of Hugging Face's transformers: OpenAI's, and MetaCLIP 2.

Their weights are renamed into open_clip's CLIP; no code of a repository is read.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions, Normalisation, Pretraining
from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.layouts import TRANSFORMERS_CLIP, part_of, read_floats, rename
from pipeline.clip.text import load_tokenizer, of_clip
from pipeline.clip.tokenizers import read_tokenizer
from pipeline.errors import UserError, shown
from pipeline.files.weight_files import Uninitialised

_KINDS = ("clip", "metaclip_2")  # values of model_type
_VOCABULARY = 49408  # of OpenAI's tokenizer, which open_clip has
_FILES = {
    "config": "config.json",
    "weights": "model.safetensors",
    "pixels": "preprocessor_config.json",
    "tokenizer": "tokenizer.json",
}
_IMAGE_NAMES = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    *TRANSFORMERS_CLIP,
)


def release_of(name: str | None) -> Release:
    """Returns what ``clip.model=hf:org/name`` is; without a name, what a folder may hold."""
    place = f"https://huggingface.co/{(name or '').removeprefix('hf:')}/resolve/main"
    return Release(
        name=name or "",
        build="pipeline.clip.hub_folder:build",
        about="pipeline.clip.hub_folder:read_about",
        files={part: (f"{place}/{file}",) for part, file in _FILES.items()},
        optional=("pixels", "tokenizer"),
    )


def read_about(files: Mapping[str, Path]) -> tuple[Dimensions, Pretraining]:
    """Returns what the configuration says; a UserError if it is not one of a CLIP."""
    config, pixels = _read(files["config"]), _read(files["pixels"]) if "pixels" in files else {}
    if (kind := config.get("model_type")) not in _KINDS:
        raise UserError(
            f"{files['config']} is of a {shown(kind)}, and of transformers' models"
            f" {' and '.join(_KINDS)} are read here: give another model, or its weights in"
            " open_clip's layout"
        )
    try:
        towers = config["vision_config"], config["text_config"]
        image, normalisation = towers[0], OPENAI_NORMALISATION
        sizes = ("num_hidden_layers", "patch_size", "image_size")
        dimensions = Dimensions(*(int(image[name]) for name in sizes))
        acts, norms = ({t[k] for t in towers} for k in ("hidden_act", "layer_norm_eps"))
        if pixels.get("image_mean") and pixels.get("image_std"):
            normalisation = Normalisation(*(tuple(pixels[f"image_{k}"]) for k in ("mean", "std")))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{files['config']} is damaged ({error}): give the model's") from error
    if norms != {1e-5} or acts not in ({"quick_gelu"}, {"gelu"}):
        raise UserError(
            f"{files['config']} names an activation or an ε of layer norms that CLIP has not: give"
            " another model"
        )
    return dimensions, Pretraining(normalisation, acts == {"quick_gelu"})


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the CLIP of a folder, on a device."""
    config, (_, pretraining) = _read(files["config"]), read_about(files)
    clip = build_clip(config, files["weights"], device, pretraining.quick_gelu)
    tokenizer = partial(_tokenize, config["text_config"], files.get("tokenizer"))
    return of_clip(clip, pretraining.normalisation, tokenizer)


def build_clip(config: Mapping[str, Any], path: Path, device: str, quick_gelu: bool) -> CLIP:
    """Builds the CLIP of a configuration with the weights of a file."""
    weights, image, text = read_floats(path, device), config["vision_config"], config["text_config"]
    renamed = rename(part_of(weights, "vision_model."), _IMAGE_NAMES)
    named = {f"visual.{name}": tensor for name, tensor in renamed.items()}
    named |= rename(part_of(weights, "text_model."), _IMAGE_NAMES[2:])
    named = {name: v for name, v in named.items() if not name.endswith("position_ids")}
    named |= {
        "visual.proj": weights["visual_projection.weight"].T,
        "text_projection": weights["text_projection.weight"].T,
        "logit_scale": weights["logit_scale"],
    }
    shared = (
        {
            "layers": of["num_hidden_layers"],
            "width": of["hidden_size"],
            "mlp_ratio": of["intermediate_size"] / of["hidden_size"],
        }
        for of in (image, text)
    )
    image_settings = CLIPVisionCfg(
        **next(shared),
        head_width=image["hidden_size"] // image["num_attention_heads"],
        patch_size=image["patch_size"],
        image_size=image["image_size"],
    )
    text_settings = CLIPTextCfg(
        **next(shared),
        heads=text["num_attention_heads"],
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        # OpenAI's files name a wrong end token, 2, at which transformers takes the largest number.
        pool_type="argmax" if text["vocab_size"] == _VOCABULARY else "eos",
        eos_id=text["eos_token_id"],
    )
    with torch.device(device), Uninitialised():
        clip = CLIP(config["projection_dim"], image_settings, text_settings, quick_gelu)
    clip.load_state_dict(named)
    return clip.float().eval().requires_grad_(False)


def _tokenize(text: Mapping[str, Any], path: Path | None, prompts: list[str]) -> torch.Tensor:
    """Turns N prompts into N×context int64 tokens: by OpenAI's tokenizer, or that of the folder."""
    if text["vocab_size"] == _VOCABULARY:
        return load_tokenizer(None)(prompts)
    if path is None:
        raise UserError("tokenizer.json is missing: give it beside model.safetensors")
    length, end = text["max_position_embeddings"], text["eos_token_id"]
    numbers_of = read_tokenizer(path, length + 1)
    tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in zip(tokens, prompts):
        numbers = [*numbers_of(prompt)]
        numbers = [*numbers[: length - 1], end] if len(numbers) > length else numbers
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: give that of the model") from error
    return found if isinstance(found, dict) else {}
