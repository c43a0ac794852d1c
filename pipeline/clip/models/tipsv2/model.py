"""Builds TIPSv2 from its weights, in the layout of its release or in that of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pipeline.clip.attention import attend
from pipeline.clip.block import Block
from pipeline.clip.image_text import ImageTextModel, Release
from pipeline.clip.image_tower import BILINEAR
from pipeline.clip.text import join_names, join_prompts
from pipeline.clip.weights.layouts import (
    TRANSFORMERS_CLIP,
    TRANSFORMERS_DINOV2,
    Weights,
    build_blocks,
    build_norm,
    build_vision_transformer,
    part_of,
    read_floats,
    rename,
)
from pipeline.clip.weights.tokenizers import read_tokenizer
from pipeline.datasets.vocabulary import Names
from pipeline.errors import UserError

_TEMPERATURE = 0.005065968260169029
"""transformers' default; by a comment there, the published weights lack it."""

_CONTEXT = 64  # tokens of a sentence
_BATCH_SIZE = 256  # sentences of equal length in a batch


class TextTower:
    """TIPSv2's text tower: sinusoidal positions, full attention, and the mean over the tokens."""

    def __init__(self, weights: Weights, heads: int):
        """Builds it from weights with the names of the release."""
        given = part_of(weights, "transformer.resblocks.")
        self.blocks = [*map(Block, build_blocks(given, heads, epsilon=1e-5, activation=nn.ReLU))]
        self.embedding = weights["token_embedding.weight"]
        self.norm = build_norm(weights, "ln_final", 1e-5)

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embeds S sentences of at most 64 token numbers each: S×E float32, of any length."""
        if max(map(max, sentences)) >= len(self.embedding):
            raise UserError("the tokenizer is not that of the weights: give both of one model")
        found = self.embedding.new_empty(len(sentences), self.embedding.shape[1])
        lengths = torch.tensor([*map(len, sentences)])
        for length in lengths.unique().tolist():  # padding is masked, so it is left out
            for rows in torch.nonzero(lengths == length)[:, 0].split(_BATCH_SIZE):
                numbers = torch.tensor([sentences[row] for row in rows], device=found.device)
                tokens = self.norm(self.states(numbers)[-1])
                found[rows.to(found.device)] = tokens.sum(1) / (length + 1e-8)
        return found

    def states(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tokens after each block, B×T×E float32, from token numbers, B×T int64."""
        width = self.embedding.shape[1]
        positions = sinusoids(numbers.shape[1], width).to(numbers.device)
        tokens = self.embedding[numbers] * width**0.5 + positions
        found = []
        for block in self.blocks:
            tokens = block.finish(tokens, attend(*block.project(block.ln_1(tokens))))
            found.append(tokens)
        return found


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Returns positions, T×E: all sines, then all cosines, of p·10000^(−j/(E/2 − 1))."""
    half = width // 2
    angles = torch.arange(length)[:, None] * 10000 ** (-torch.arange(half) / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], 1)


def build(release: Release, files: Mapping[str, Path], device: str) -> ImageTextModel:
    """Builds the model of a release from its files, on a device."""
    weights = read_floats(files["weights"], device)
    image, text = part_of(weights, "vision_encoder."), part_of(weights, "text_encoder.")
    if not image:
        image = rename(part_of(weights, "vision_model."), TRANSFORMERS_DINOV2)
        text = rename(part_of(weights, "text_model."), TRANSFORMERS_CLIP)
    tower = build_vision_transformer(
        image,
        release,
        stretch={**BILINEAR, "antialias": True},
        temperature=1 / float(weights.get("temperature", _TEMPERATURE)),
    )
    text_tower = TextTower(text, release.text_heads)

    def embed_names(names: Names, prompts: Sequence[str]) -> torch.Tensor:
        tokenize = read_tokenizer(files["tokenizer"], _CONTEXT)
        flat = [name for group in names for name in group]
        vectors = text_tower([tokenize(prompt.format(n)) for prompt in prompts for n in flat])
        return join_names(join_prompts(vectors.unflatten(0, (len(prompts), len(flat)))), names)

    return ImageTextModel(tower, embed_names)
