"""The text tower of SigLIP 2 alone (Tschannen et al., 2025, arXiv 2502.14786), and its tokens."""

import string
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from open_clip.transformer import LayerNorm, TextTransformer
from torch import nn

from pipeline.clip.weights import layouts
from pipeline.clip.weights.checkpoint import read_weights
from pipeline.clip.weights.tokenizers import read_tokenizer
from pipeline.errors import UserError

SIGLIP2 = "siglip2-g-384"  # NVlabs' name of the only one that is read
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TRANSFORMERS = ((r"^head\.", "text_projection."), *layouts.TRANSFORMERS_CLIP)


def build_text_tower(path: Path, heads: int, size: int, device: str) -> nn.Module:
    """Builds the tower from open_clip's file or transformers', of which nothing else is read.

    Attention is full and sees the padding; the last token gives vectors of ``size``. A UserError
    refuses other files.
    """
    weights = read_weights(path)
    given = layouts.part_of(weights, "text.") or layouts.rename(
        layouts.part_of(weights, "text_model."), _TRANSFORMERS
    )
    try:
        context, width = given["positional_embedding"].shape
        hidden = len(given["transformer.resblocks.0.mlp.c_fc.weight"])
        with torch.device("meta"):
            tower = TextTransformer(
                context_length=context,
                vocab_size=len(given["token_embedding.weight"]),
                width=width,
                heads=heads,
                layers=layouts.count_blocks(layouts.part_of(given, "transformer.resblocks.")),
                mlp_ratio=(hidden + 0.5) / width,  # the product is cut to a whole number
                output_dim=size,
                no_causal_mask=True,
                proj_bias=True,
                pool_type="last",
                act_layer=partial(nn.GELU, approximate="tanh"),
                norm_layer=partial(LayerNorm, eps=1e-6),
            )
        tower.load_state_dict(layouts.to_floats(given, path, device), assign=True)
    except (LookupError, RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"{path} does not hold the text tower of {SIGLIP2}, with vectors of {size}: give the"
            " file of open_clip, or that of transformers in one piece"
        ) from error
    return tower.eval().requires_grad_(False)


def tokenize(path: Path, length: int, vocabulary: int, prompts: Sequence[str]) -> torch.Tensor:
    """Turns N prompts, lowered and without punctuation, into N×length int64 tokens.

    Zeros complete them; longer ones are cut and keep the tokenizer's end token.
    """
    numbers_of = read_tokenizer(path, sys.maxsize)
    tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in zip(tokens, prompts):
        words = prompt.replace("_", " ").translate(_WITHOUT_PUNCTUATION).lower().split()
        numbers = [*numbers_of(" ".join(words))]
        del numbers[length - 1 : -1]  # of a longer prompt alone
        if max(numbers) >= vocabulary:
            raise UserError(f"{path} is not the tokenizer of the weights: give both of one model")
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens
