"""Softmax Grad-CAM on CLIP's last block (CLIP-ES, section 3.2; ALGORITHMS §3)."""

from __future__ import annotations

import torch

from pipeline.clip.encoder import ClipEncoder

_EPSILON = 1e-7


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Subtracts every map's minimum and divides by 1e-7 + its maximum; K×N in and out."""
    maps = maps - maps.amin(-1, keepdim=True)
    return maps / (_EPSILON + maps.amax(-1, keepdim=True))


def softmax_gradcam(
    encoder: ClipEncoder, tokens: torch.Tensor, text: torch.Tensor, tag_count: int
) -> torch.Tensor:
    """Returns a class activation map for every tag of one image.

    The score of a tag is its share in a softmax over the tags and the backgrounds, so that classes
    that are confused with each other suppress one another. All tags come from one forward pass and
    one batched vector-Jacobian product.

    Args:
        encoder: the image tower, whose parameters need no gradient.
        tokens: those that enter block L, 1×(1+N)×D.
        text: embeddings of the K tags followed by those of the backgrounds, each of length 1.
        tag_count: K.

    Returns:
        K×N float32 in [0, 1].
    """
    with torch.enable_grad():
        normed = encoder.last_attention_input(tokens).detach().requires_grad_()
        features = encoder.features_of_last_input(tokens, normed)
        image = encoder.project(features[0, 1:].mean(0))
        scores = (encoder.temperature * text @ image).softmax(-1)[:tag_count]
        # A row of the identity for each tag: vmap runs the backward pass of all of them at once.
        selectors = torch.eye(tag_count, dtype=scores.dtype, device=scores.device)
        (gradients,) = torch.autograd.grad(scores, normed, selectors, is_grads_batched=True)
    weights = gradients[:, 0, 1:].float().mean(1)
    maps = torch.relu(weights @ normed[0, 1:].detach().float().mT)
    # The released code normalises twice in a row; the second time decides ⌊255·cam⌋ at the peak.
    return normalise(normalise(maps))
