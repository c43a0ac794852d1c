"""Softmax Grad-CAM on CLIP's last block (CLIP-ES, section 3.2; ALGORITHMS §3)."""

from __future__ import annotations

import math

import torch

from pipeline.clip.attention import attention_weights
from pipeline.clip.encoder import BeforeLast, ClipEncoder

_EPSILON = 1e-7


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Subtracts every map's minimum and divides by 1e-7 + its maximum; K×N in and out."""
    maps = maps - maps.amin(-1, keepdim=True)
    return maps / (_EPSILON + maps.amax(-1, keepdim=True))


def softmax_gradcam(
    encoder: ClipEncoder, before: BeforeLast, text: torch.Tensor, tag_count: int
) -> torch.Tensor:
    """Returns a class activation map for every tag of one image.

    The score of a tag is its share in a softmax over the tags and the backgrounds, so that classes
    that are confused with each other suppress one another. All tags come from one forward pass and
    one batched vector-Jacobian product.

    Args:
        encoder: the image tower, whose parameters need no gradient.
        before: what enters block L, of a batch of one.
        text: embeddings of the K tags followed by those of the backgrounds, each of length 1.
        tag_count: K.

    Returns:
        K×N float32 in [0, 1].
    """
    with torch.no_grad():
        normed = encoder.last_attention_input(before.tokens)
        query, key, value = before.projections
        attention = attention_weights(query, key)
        gathered = attention.to(value.dtype) @ value
    with torch.enable_grad():
        leaf = gathered.detach().requires_grad_()
        features = encoder.features_of_gathered(before.tokens, leaf)
        image = encoder.project(features[0, 1:].mean(0))
        scores = (encoder.temperature * text @ image).softmax(-1)[:tag_count]
        # A row of the identity for each tag: vmap runs the backward pass of all of them at once.
        selectors = torch.eye(tag_count, dtype=scores.dtype, device=scores.device)
        (gradients,) = torch.autograd.grad(scores, leaf, selectors, is_grads_batched=True)
    with torch.no_grad():
        of_projections = sum_through_attention(
            gradients[:, 0].float(),
            gathered[0].float(),
            attention[0],
            *(projection[0].float() for projection in (query, key, value)),
        )
        # A channel's weight is the mean of its gradient over the patches.
        weights = encoder.pull_back(of_projections) / (normed.shape[1] - 1)
        maps = torch.relu(weights @ normed[0, 1:].float().mT)
        # The released code normalises twice in a row; the second time decides ⌊255·cam⌋ at the
        # peak.
        return normalise(normalise(maps))


def sum_through_attention(
    gradients: torch.Tensor,
    gathered: torch.Tensor,
    attention: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Takes gradients back through an attention, summed over the patches.

    Grad-CAM wants no more of ∂q/∂Q, ∂q/∂K and ∂q/∂V than their sums over the patch tokens. With the
    attention A = softmax(S), S = QKᵀ/√d, its output O = AV and g = ∂q/∂O, the gradient of S is
    A_ij (g_i·V_j − g_i·O_i). Its rows sum to zero, so that

    * Σ_i ∂q/∂Q_i = Σ_j c_j K_j/√d, with c its column sums, c = V·(Aᵀg) − Aᵀ(g·O) row by row;
    * Σ_j ∂q/∂K_j over patches = −Σ_i b_i Q_i/√d, with b its column of the class token;
    * Σ_j ∂q/∂V_j over patches = Σ_i (1 − A_i0) g_i,

    which takes one product with A instead of four, and no further matrix of its size. The class
    token's own output has no part in the score: g_0 = 0.

    Args:
        gradients: g of each of K scores, K×heads×T×d.
        gathered: O, heads×T×d.
        attention: A, heads×T×T.
        query: heads×T×d.
        key: heads×T×d.
        value: heads×T×d.

    Returns:
        K×3D: the sums for queries, keys and values, heads side by side.
    """
    scale = 1 / math.sqrt(query.shape[-1])
    by_row = (gradients * gathered).sum(-1, keepdim=True)
    # All scores are columns of one product, since torch would copy A for each of them.
    side_by_side = torch.cat([gradients, by_row], -1).permute(1, 2, 0, 3)
    gathered_back = attention.mT @ side_by_side.flatten(2)
    gathered_back = gathered_back.unflatten(-1, side_by_side.shape[2:]).permute(2, 0, 1, 3)
    columns = (value * gathered_back[..., :-1]).sum(-1) - gathered_back[..., -1]
    to_class = attention[:, :, 0]
    of_class = to_class * ((gradients * value[:, :1]).sum(-1) - by_row[..., 0])
    of_query = scale * (columns.unsqueeze(-2) @ key).squeeze(-2)
    of_key = -scale * (of_class.unsqueeze(-2) @ query).squeeze(-2)
    of_value = ((1 - to_class).unsqueeze(-1) * gradients).sum(-2)
    return torch.cat([part.flatten(1) for part in (of_query, of_key, of_value)], -1)
