"""Builds Talk2DINO: CLIP's text vectors, projected among the patches of DINOv2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline.clip.architectures import describe_architecture
from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BICUBIC
from pipeline.clip.text import join_names, load_tokenizer, prompt_features, text_tower
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.clip.weights.layouts import Weights, build_vision_transformer, read_floats
from pipeline.datasets.vocabulary import Names
from pipeline.errors import UserError

_TEMPERATURE = 100.0
"""CLIP's, for methods with a softmax; Talk2DINO itself has none."""


def project_text(weights: Weights, vectors: torch.Tensor) -> torch.Tensor:
    """Returns W₂·tanh(W₁t + b₁) + b₂, …×D, of text vectors t, which are not of length 1."""
    second = "hidden_layers.0" if "hidden_layers.0.weight" in weights else "linear_layer2"
    first, second = (
        (weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in ("linear_layer", second)
    )
    return F.linear(F.linear(vectors, *first).tanh(), *second)


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model from its files, on a device."""
    tower = build_vision_transformer(
        read_floats(files["image"], device), release, stretch=BICUBIC, temperature=_TEMPERATURE
    )
    head = read_floats(files["head"], device)
    text_width = head["linear_layer.weight"].shape[1]
    if project_text(head, torch.zeros(text_width, device=device)).shape != tower.class_token.shape:
        raise ValueError("the projection is of another image tower")

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        flat = [name for group in names for name in group]
        clip = load_clip(files["text"]).to(device)
        vectors = prompt_features(text_tower(clip), load_tokenizer(None), flat, prompts)
        found = describe_architecture(clip.state_dict()), vectors.shape[-1]
        expected = release.text_clip or found[0], text_width
        if found != expected:
            about, wanted = (f"{what} with text vectors of {n}" for what, n in (found, expected))
            raise UserError(f"{files['text']} holds {about}, not {wanted}: give that CLIP")
        return join_names(F.normalize(project_text(head, vectors.mean(0)), dim=-1), names)

    return ImageTextModel(tower, embed_names)
