"""Class embeddings: CLIP's text features of a name, averaged over prompt templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP

IMAGENET_TEMPLATES = tuple(fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES)
"""The 80 templates of CLIP's ImageNet prompts, in their published order."""

SCENE_TEMPLATES = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)

TEMPLATES = {
    "tagclip": IMAGENET_TEMPLATES + SCENE_TEMPLATES,
    "clip_es": ("a clean origami {}.",),
    "photo": ("a photo of a {}.",),
}
"""Template sets by the name that a configuration gives them."""


@torch.inference_mode()
def class_embeddings(
    clip: CLIP,
    tokenizer: Callable[[list[str]], torch.Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
) -> torch.Tensor:
    """Embeds names by prompt ensembling (ALGORITHMS §1; CLIP paper, section 3.1.4).

    Each prompt's embedding is L2-normalised, the embeddings of a name are averaged, and the mean is
    normalised again.

    Args:
        clip: the model, whose text tower is run where its weights lie.
        tokenizer: turns prompts into tokens, one row a prompt.
        names: C names.
        templates: prompts with one ``{}``.
        batch_size: prompts that are encoded together.

    Returns:
        C×E float32, each row of length 1.
    """
    prompts = [template.format(name) for name in names for template in templates]
    device = clip.logit_scale.device
    features = []
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(prompts[start : start + batch_size]).to(device)
        features.append(F.normalize(clip.encode_text(tokens).float(), dim=-1))
    mean = torch.cat(features).unflatten(0, (len(names), len(templates))).mean(1)
    return F.normalize(mean, dim=-1)
