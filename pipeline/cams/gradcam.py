"""Softmax Grad-CAM on CLIP's last block (CLIP-ES, section 3.2; docs/method.md, section 3)."""

import math

import torch
import torch.nn.functional as F

from pipeline.clip.attention import attention_weights
from pipeline.clip.encoder import BlockInput, ClipEncoder


def normalise(cams: torch.Tensor) -> torch.Tensor:
    """Subtracts every CAM's minimum and divides by 1e-7 + its maximum; K×N in and out."""
    cams = cams - cams.amin(-1, keepdim=True)
    return cams / (1e-7 + cams.amax(-1, keepdim=True))


def softmax_gradcam(
    encoder: ClipEncoder, inputs: BlockInput, text: torch.Tensor, num_tags: int
) -> torch.Tensor:
    """Returns a class activation map (CAM) for every tag of one image: K×N float32 in [0, 1].

    The score of a tag is its probability in a softmax over the tags and the backgrounds, so that
    similar classes suppress each other. One forward pass and one batched vector-Jacobian product
    give the CAMs of all tags.

    Args:
        encoder: the image tower; its parameters need no gradients.
        inputs: of block L, a batch of one.
        text: (K+M)×E embeddings of the K tags and then of the M backgrounds, each of length 1.
        num_tags: K.
    """
    with torch.no_grad():
        tokens, query, key, value = inputs
        normed = encoder.last_block.ln_1(tokens)  # Grad-CAM's target layer
        attention = attention_weights(query, key)
        attended = attention.to(value.dtype) @ value
    with torch.enable_grad():
        leaf = attended.detach().requires_grad_()
        features = encoder.tower.norm_after(encoder.last_block.finish(tokens, leaf))
        image = encoder.tower.project(encoder.patches(features)[0].mean(0))
        image = F.normalize(image.float(), dim=-1)
        scores = (encoder.temperature * text @ image).softmax(-1)[:num_tags]
        # A row of the identity for each tag: vmap runs the backward passes of all tags at once.
        selectors = torch.eye(num_tags, dtype=scores.dtype, device=scores.device)
        (gradients,) = torch.autograd.grad(scores, leaf, selectors, is_grads_batched=True)
    with torch.no_grad():
        projection_sums = attention_vjp_sums(
            gradients[:, 0].float(),
            attended[0].float(),
            attention[0],
            *(projection[0].float() for projection in (query, key, value)),
            prefix=encoder.tower.prefix,
        )
        # The weight of a channel is the mean of its gradient over the patches.
        patches = encoder.patches(normed)[0]
        weights = encoder.last_block.pull_back(projection_sums) / len(patches)
        cams = torch.relu(weights @ patches.float().mT)
        # The released code normalises twice; the second time decides ⌊255·cam⌋ at the peak.
        return normalise(normalise(cams))


def attention_vjp_sums(
    gradients: torch.Tensor,
    attended: torch.Tensor,
    attention: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    prefix: int,
) -> torch.Tensor:
    """Backpropagates scores through an attention; returns sums of the gradients over the patches.

    Grad-CAM needs only the sums of ∂q/∂Q, ∂q/∂K and ∂q/∂V over the patch tokens. With the attention
    A = softmax(S), S = QKᵀ/√d, its output O = AV and g = ∂q/∂O, the gradient of S is
    A_ij (g_i·V_j − g_i·O_i). Its rows sum to zero. Hence

    * Σ_i ∂q/∂Q_i = Σ_j c_j K_j/√d, with c its column sums, c = V·(Aᵀg) − Aᵀ(g·O) row by row;
    * Σ_j ∂q/∂K_j over patches = −Σ_i b_i Q_i/√d, with b its column of the class token;
    * Σ_j ∂q/∂V_j over patches = Σ_i (1 − A_i0) g_i.

    With registers, b and A_i0 are sums of their columns, too. This takes one product with A instead
    of four, and no other matrix of its size. The output of the class token and of registers does
    not contribute to the scores: their g is 0.

    Args:
        gradients: g of each of K scores, K×heads×T×d float32.
        attended: O, heads×T×d.
        attention: A, heads×T×T.
        query: heads×T×d, as ``key`` and ``value``.
        prefix: the number of tokens before the patches.

    Returns:
        K×3D float32, the sums for queries, keys and values, heads side by side.
    """
    scale = 1 / math.sqrt(query.shape[-1])
    by_row = (gradients * attended).sum(-1, keepdim=True)
    # All scores are columns of one product; torch would copy A for each score otherwise.
    side_by_side = torch.cat([gradients, by_row], -1).permute(1, 2, 0, 3)
    products = attention.mT @ side_by_side.flatten(2)
    products = products.unflatten(-1, side_by_side.shape[2:]).permute(2, 0, 1, 3)
    columns = (value * products[..., :-1]).sum(-1) - products[..., -1]
    to_prefix = attention[:, :, :prefix].unbind(-1)
    prefix_term = sum(
        weights * ((gradients * value[:, j : j + 1]).sum(-1) - by_row[..., 0])
        for j, weights in enumerate(to_prefix)
    )
    query_sums = scale * (columns.unsqueeze(-2) @ key).squeeze(-2)
    key_sums = -scale * (prefix_term.unsqueeze(-2) @ query).squeeze(-2)
    value_sums = ((1 - sum(to_prefix)).unsqueeze(-1) * gradients).sum(-2)
    return torch.cat([part.flatten(1) for part in (query_sums, key_sums, value_sums)], -1)
