"""CLIPs in the layout of Hugging Face's transformers: OpenAI's, and MetaCLIP 2.

Their weights are renamed into open_clip's CLIP, and their text tower is open_clip's.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions, Normalisation, Pretraining
from pipeline.clip.layouts import TRANSFORMERS_CLIP, part_of, read_floats, rename
from pipeline.clip.text import load_tokenizer
from pipeline.clip.tokenizers import read_tokenizer
from pipeline.errors import UserError, shown
from pipeline.files.weight_files import Uninitialised

_KINDS = ("clip", "metaclip_2")  # values of model_type
_VOCABULARY = 49408  # of OpenAI's tokenizer, which open_clip has
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION = {
    **{key: _TEXT[key] for key in ("num_hidden_layers", "hidden_act", "layer_norm_eps")},
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
}
_IMAGE_NAMES = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    *TRANSFORMERS_CLIP,
)
_TEXT_NAMES = (
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    *TRANSFORMERS_CLIP,
)


class FolderConfig:
    """What ``config.json`` and ``preprocessor_config.json`` say of a CLIP.

    Attributes:
        text: the text tower's settings, by transformers' names.
        vision: the image tower's.
        projection: E.
        pretraining: how pixels are normalised, and whether the activation is QuickGELU.

    Raises:
        UserError: the file is not one of a CLIP that is read here.
    """

    def __init__(self, path: Path, pixels: Path | None):
        given, about = _read(path), _read(pixels) if pixels else {}
        if (kind := given.get("model_type")) not in _KINDS:
            raise UserError(
                f"{path} is of a {shown(kind)}, and of transformers' models {' and '.join(_KINDS)}"
                " are read here: give another model, or its weights in open_clip's layout"
            )
        try:
            self.text = _TEXT | given.get("text_config", {})
            self.vision = _VISION | given.get("vision_config", {})
            self.projection = given.get("projection_dim", 512)
            mean, std = about.get("image_mean"), about.get("image_std")
            pixels_as = Normalisation(tuple(mean), tuple(std)) if mean and std else None
        except TypeError as error:
            raise UserError(f"{path} is damaged: give that of the model") from error
        activation = self.text["hidden_act"]
        plain = {t["layer_norm_eps"] for t in (self.text, self.vision)} == {1e-5}
        if self.vision["hidden_act"] != activation or activation not in _ACTIVATIONS or not plain:
            raise UserError(
                f"{path} names an activation or an ε of layer norms that CLIP has not: give"
                " another model"
            )
        quick = _ACTIVATIONS[activation]
        self.pretraining = Pretraining(pixels_as or OPENAI_NORMALISATION, quick)

    @property
    def dimensions(self) -> Dimensions:
        """Those of the image tower."""
        of = self.vision
        return Dimensions(of["num_hidden_layers"], of["patch_size"], of["image_size"])

    def build(self, path: Path, device: str) -> CLIP:
        """Builds the CLIP with the weights of a file; a UserError if they do not fit."""
        weights, image, text = read_floats(path, device), self.vision, self.text
        try:
            renamed = rename(part_of(weights, "vision_model."), _IMAGE_NAMES)
            named = {f"visual.{name}": value for name, value in renamed.items()}
            named |= rename(part_of(weights, "text_model."), _TEXT_NAMES)
            for name in [name for name in named if name.endswith("position_ids")]:  # of old files
                del named[name]
            named["visual.proj"] = weights["visual_projection.weight"].T
            named["text_projection"] = weights["text_projection.weight"].T
            named["logit_scale"] = weights["logit_scale"]
            image_settings = CLIPVisionCfg(
                layers=image["num_hidden_layers"],
                width=image["hidden_size"],
                head_width=image["hidden_size"] // image["num_attention_heads"],
                mlp_ratio=image["intermediate_size"] / image["hidden_size"],
                patch_size=image["patch_size"],
                image_size=image["image_size"],
            )
            text_settings = CLIPTextCfg(
                context_length=text["max_position_embeddings"],
                vocab_size=text["vocab_size"],
                width=text["hidden_size"],
                heads=text["num_attention_heads"],
                layers=text["num_hidden_layers"],
                mlp_ratio=text["intermediate_size"] / text["hidden_size"],
                # transformers reads the end token of OpenAI's first files, a wrong 2, so as well.
                pool_type="eos" if self.has_own_tokenizer else "argmax",
                eos_id=text["eos_token_id"],
            )
            with torch.device(device), Uninitialised():
                quick_gelu = self.pretraining.quick_gelu
                clip = CLIP(self.projection, image_settings, text_settings, quick_gelu)
            clip.load_state_dict(named)
        except (KeyError, RuntimeError, TypeError, ArithmeticError) as error:
            raise UserError(
                f"{path} does not hold the CLIP of its config.json ({shown(str(error))}): give"
                " both of one model"
            ) from error
        return clip.float().eval().requires_grad_(False)

    @property
    def has_own_tokenizer(self) -> bool:
        """Whether its tokens are other ones than those of OpenAI's CLIP, which open_clip has."""
        return self.text["vocab_size"] != _VOCABULARY

    def tokenizer(self, path: Path | None) -> Callable[[list[str]], torch.Tensor]:
        """Returns what turns N prompts into N×context int64 tokens, by ``tokenizer.json``."""
        if not self.has_own_tokenizer or path is None:
            return load_tokenizer(None)
        length, end = self.text["max_position_embeddings"], self.text["eos_token_id"]
        numbers_of = read_tokenizer(path, length + 1)

        def tokenize(prompts: list[str]) -> torch.Tensor:
            tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
            for row, prompt in zip(tokens, prompts):
                numbers = list(numbers_of(prompt))
                if len(numbers) > length:
                    numbers = [*numbers[: length - 1], end]
                row[: len(numbers)] = torch.tensor(numbers)
            return tokens

        return tokenize


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: give that of the model") from error
    return found if isinstance(found, dict) else {}
