"""PIAA's prototypes: class means and a shared covariance, estimated from unlabelled patches.

Wang et al., PIAA, ICML 2026, arXiv 2605.25821; docs/other-methods.md, "Tags: PIAA".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.errors import UserError


@dataclass(frozen=True)
class Prototypes:
    """A linear classifier of patches, ℓ = xW + b.

    Attributes:
        weight: W, E×C float64 or float32.
        bias: b, C of the same type.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Returns ℓ of patches, …×E: …×C."""
        return features @ self.weight + self.bias


def entropy(
    features: torch.Tensor, text: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns how unsure zero-shot classification is of patches, and the class of each.

    These are H = −Σ p ln p of p = softmax(temperature · x·t), and ŷ = argmax x·t, both of shape …,
    where features x are …×E and class embeddings t are C×E, all of length 1.
    """
    probabilities = zero_shot(features, text, temperature)
    logarithms = probabilities.clamp(min=1e-10).log()
    return -(probabilities * logarithms).sum(-1), probabilities.argmax(-1)


def zero_shot(features: torch.Tensor, text: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns p = softmax(temperature · x·t) over the classes, …×C."""
    return (temperature * (features @ text.mT)).softmax(-1)


def choose_bank(
    entropies: Sequence[np.ndarray], classes: Sequence[np.ndarray], size: int
) -> list[np.ndarray]:
    """Chooses, for every class, the patches of all images that are surest to show it.

    Of equal entropies the first image's, and in it the first patch, is chosen, so that the choice
    depends on nothing but the order of the images.

    Takes H and ŷ of the patches of every image, N float32 and N integers each, and K, the ``size``;
    a class with fewer than K patches keeps all. Returns the chosen ones of every image, ascending.
    """
    entropy, patch_class = np.concatenate(entropies), np.concatenate(classes)
    chosen = np.zeros(len(entropy), bool)
    for index in np.unique(patch_class):
        patches = np.flatnonzero(patch_class == index)
        order = entropy[patches].argsort(kind="stable")
        chosen[patches[order[:size]]] = True
    ends = np.cumsum([len(each) for each in entropies])[:-1]
    return [np.flatnonzero(part) for part in np.split(chosen, ends)]


def estimate(features: torch.Tensor, probabilities: torch.Tensor, text: torch.Tensor) -> Prototypes:
    """Gaussian discriminant analysis: each patch counts for its best class, by its probability.

    Features are n×E, of length 1, and probabilities n×C. The embeddings ``text``, C×E, are the
    means of classes without a patch.

    Raises:
        UserError: there are fewer than two patches, which have no covariance.
    """
    n, width = features.shape
    if n < 2:
        raise UserError(
            "fewer than two patches are left to learn prototypes from: give more images to learn"
            " from, or set compat.empty_class=false"
        )
    classes = probabilities.argmax(1)
    weights = F.one_hot(classes, len(text)) * probabilities
    totals = weights.sum(0).unsqueeze(1)
    means = torch.where(totals > 0, weights.mT @ features / totals.clamp(min=1e-300), text)
    covariance = (features - means[classes]).mT.cov()
    spread = (n - 1) * covariance + covariance.trace() * torch.eye(width).to(covariance)
    precision = width * torch.linalg.pinv(spread, hermitian=True)
    weight = precision @ means.mT
    bias = -np.log(len(text)) - (means.mT * weight).sum(0) / 2
    return Prototypes(weight, bias)


def keep_surest(
    features: torch.Tensor, prototypes: Prototypes, temperature: float, *, empty_class: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores patches with prototypes, and keeps those that stand out in their class.

    In class c these are the patches with q ≥ mean + standard deviation of q over the class, where
    q = softmax(T·ℓ). With the quirk ``empty_class`` no patch of a class is kept where none reaches
    that, as where all are almost certain, or where there is one patch; else its best patches are.
    Features are n×E, of length 1. Returns which patches are kept, n bool, and q of all, n×C.
    """
    logits = prototypes.logits(features)
    probabilities, classes = (temperature * logits).softmax(-1), logits.argmax(-1)
    kept = torch.zeros_like(classes, dtype=torch.bool)
    for index in classes.unique():
        patches = torch.nonzero(classes == index).flatten()
        values = probabilities[patches, index]
        threshold = values.mean() + (values.std() if len(values) > 1 else torch.nan)
        if not empty_class:
            threshold = threshold.nan_to_num(0).minimum(values.max())
        kept[patches] = values >= threshold
    return kept, probabilities


def learn(
    features: torch.Tensor,
    text: torch.Tensor,
    temperature: float,
    rescoring_temperature: float,
    *,
    empty_class: bool,
) -> Prototypes:
    """Learns prototypes from the patches of the bank: GDA, rescoring, GDA; without gradients.

    Features are n×E and ``text`` is C×E, both of length 1. ``temperature`` is that of zero-shot
    probabilities; for ``rescoring_temperature`` and the quirk see :func:`keep_surest`.

    Raises:
        UserError: too few patches are left.
    """
    features, text = (F.normalize(each.double(), dim=-1) for each in (features, text))
    first = estimate(features, zero_shot(features, text, temperature), text)
    kept, surest = keep_surest(features, first, rescoring_temperature, empty_class=empty_class)
    return estimate(features[kept], surest[kept], text)


def combine(
    patches: torch.Tensor,
    similarities: torch.Tensor,
    local_factor: float,
    global_factor: float,
    global_share: float,
) -> torch.Tensor:
    """Returns the scores of images: a mixture of the best patches' and the class token's.

    Args:
        patches: g = softmax(ℓ / temperature) of patches, B×N×C.
        similarities: B×C cosine similarities of the class token.
        local_factor: α of Q = softmax(α · max over patches of g).
        global_factor: β of G = softmax(β · similarities).
        global_share: the share of G; that of Q is the rest.

    Returns:
        B×C, which sum to 1.
    """
    local_scores = (local_factor * patches.amax(-2)).softmax(-1)
    global_scores = (global_factor * similarities).softmax(-1)
    return global_share * global_scores + (1 - global_share) * local_scores
