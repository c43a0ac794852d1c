"""PIAA's prototypes against the released code's, and against naive implementations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.tags.piaa.prototypes import (
    Prototypes,
    choose_bank,
    combine,
    entropy,
    estimate,
    keep_surest,
    learn,
    zero_shot,
)

CLASSES, WIDTH = 4, 6


@pytest.fixture
def text() -> torch.Tensor:
    return F.normalize(torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def features(text) -> torch.Tensor:
    """Patches near the first three of four classes."""
    noise = torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(1))
    return F.normalize(text[:3].repeat(20, 1) + 0.25 * noise)


def test_prototypes_are_those_of_the_released_code(golden_folder):
    golden = np.load(golden_folder / "dense.npz")
    given = [torch.from_numpy(golden[f"piaa_{n}"]) for n in ("features", "probabilities", "text")]
    found = estimate(*(each.double() for each in given))
    for ours, name in ((found.weight, "weight"), (found.bias, "bias")):
        expected = golden[f"piaa_{name}"]
        assert np.abs(ours.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def naive_estimate(x: np.ndarray, p: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes, (n, width) = p.argmax(1), x.shape
    means = []
    for c in range(len(text)):
        of_class = [i for i in range(n) if classes[i] == c]
        total = sum(p[i, c] for i in of_class)
        means.append(sum(p[i, c] * x[i] for i in of_class) / total if of_class else text[c])
    centred = np.array([x[i] - means[classes[i]] for i in range(n)])
    covariance = np.cov(centred.T)
    inverse = width * np.linalg.inv((n - 1) * covariance + np.trace(covariance) * np.eye(width))
    bias = [math.log(1 / len(text)) - 0.5 * mean @ inverse @ mean for mean in means]
    return np.array([inverse @ mean for mean in means]).T, np.array(bias)


def test_the_estimate_is_discriminant_analysis_with_a_mean_for_every_class(features, text):
    probabilities = zero_shot(features, text, 20.0)
    assert 3 not in probabilities.argmax(1), "the last class has no patch"
    given = features.double(), probabilities.double(), text.double()
    found = estimate(*given)
    weight, bias = naive_estimate(*(each.numpy() for each in given))
    np.testing.assert_allclose(found.weight, weight, rtol=1e-9)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-9)


def test_one_patch_is_too_few_and_two_are_enough(features, text):
    found = estimate(features[:2], zero_shot(features[:2], text, 20.0), text)
    assert found.weight.isfinite().all() and found.bias.isfinite().all()
    with pytest.raises(UserError, match="give more images"):
        estimate(features[:1], zero_shot(features[:1], text, 20.0), text)


def test_entropy_is_that_of_zero_shot_probabilities(features, text):
    found, classes = entropy(features, text, 20.0)
    for x, h, c in zip(features.numpy(), found.numpy(), classes):
        logits = [20 * float(x @ t) for t in text.numpy()]
        total = sum(map(math.exp, logits))
        p = [math.exp(v) / total for v in logits]
        assert h == pytest.approx(-sum(v * math.log(max(v, 1e-10)) for v in p), abs=1e-5)
        assert c == max(range(CLASSES), key=p.__getitem__)


def test_the_bank_has_the_surest_patches_of_each_class_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    sizes = (5, 1, 9, 4)
    entropies = [rng.integers(0, 4, n).astype(np.float32) for n in sizes]  # many ties
    classes = [rng.integers(0, 3, n) for n in sizes]
    every = sorted(
        (float(entropies[i][j]), i, j, int(classes[i][j]))
        for i in range(len(sizes))
        for j in range(sizes[i])
    )
    expected = [[] for _ in sizes]
    for c in range(3):
        for _, i, j, _ in [one for one in every if one[3] == c][:4]:
            expected[i].append(j)
    found = choose_bank(entropies, classes, 4)
    assert [list(each) for each in found] == [sorted(each) for each in expected]
    # Whoever has a part of the images finds no patch that is not chosen among all of them.
    parts = [
        *choose_bank(entropies[:2], classes[:2], 4),
        *choose_bank(entropies[2:], classes[2:], 4),
    ]
    assert all({*whole} <= {*part} for whole, part in zip(found, parts))


def naive_survivors(q: np.ndarray, classes: np.ndarray, empty_class: bool) -> list[bool]:
    kept = []
    for i, c in enumerate(classes):
        of_class = q[classes == c, c]
        limit = of_class.mean() + of_class.std(ddof=1) if len(of_class) > 1 else math.nan
        if not empty_class:
            limit = min(0 if math.isnan(limit) else limit, of_class.max())
        kept.append(bool(q[i, c] >= limit))
    return kept


@pytest.mark.parametrize("empty_class", [True, False])
def test_patches_that_stand_out_in_their_class_are_kept(features, text, empty_class):
    features, text = features.double(), text.double()
    first = estimate(features, zero_shot(features, text, 20.0), text)
    logits = features.numpy() @ first.weight.numpy() + first.bias.numpy()
    q = np.exp(logits - logits.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    kept, probabilities = keep_surest(features, first, 1.0, empty_class=empty_class)
    np.testing.assert_allclose(probabilities, q, rtol=1e-9)
    assert kept.tolist() == naive_survivors(q, logits.argmax(1), empty_class)
    assert 0 < kept.sum() < len(kept)


def test_a_class_of_near_certain_patches_or_of_one_loses_all_by_the_quirk_alone():
    identity = Prototypes(torch.eye(2).double(), torch.zeros(2).double())
    # Of the first class many are certain and one is not; the second has one patch.
    features = torch.tensor([[1.0, 0.0]] * 20 + [[0.6, 0.5], [0.0, 1.0]]).double()
    kept, _ = keep_surest(features, identity, 50.0, empty_class=True)
    assert kept.sum() == 0
    kept, _ = keep_surest(features, identity, 50.0, empty_class=False)
    assert kept.tolist() == [True] * 20 + [False, True]


def test_learning_is_estimating_twice_with_the_surest_patches_of_the_first(features, text):
    found = learn(3 * features, 2 * text, 20.0, 1.0, empty_class=False)
    features, text = features.double(), text.double()
    features, text = F.normalize(features), F.normalize(text)
    first = estimate(features, zero_shot(features, text, 20.0), text)
    kept, q = keep_surest(features, first, 1.0, empty_class=False)
    expected = estimate(features[kept], q[kept], text)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-5, atol=1e-5)
    another = replace(expected, bias=expected.bias + 1)
    torch.testing.assert_close(another.logits(features), features @ expected.weight + another.bias)


def naive_scores(logits: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    def softmax(values: np.ndarray) -> np.ndarray:
        e = np.exp(values - values.max())
        return e / e.sum()

    best = np.max([softmax(row / 500) for row in logits], axis=0)
    return 0.1 * softmax(80 * cosines) + 0.9 * softmax(200 * best)


def test_scores_mix_the_best_patches_and_the_class_token():
    rng = np.random.default_rng(0)
    logits, cosines = rng.normal(0, 300, (2, 7, 5)), rng.normal(0, 0.3, (2, 5))
    patches = (torch.from_numpy(logits) / 500).softmax(-1)
    found = combine(patches, torch.from_numpy(cosines), 200.0, 80.0, 0.1).numpy()
    expected = [naive_scores(*each) for each in zip(logits, cosines)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found.sum(1), 1)
