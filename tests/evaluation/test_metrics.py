"""AP, F1 and mIoU against loops that share no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.metrics import (
    Confusion,
    average_precisions,
    tagging_figures,
    to_indicator,
)


def naive_average_precision(scores: list[float], positive: list[bool]) -> float:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # stable, as the definition
    total, hits = 0.0, 0
    for rank, index in enumerate(order, 1):
        if positive[index]:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_the_naive_one(seed: int):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    scores = rng.random(count).round(1 if seed % 2 else 6)  # every other time with ties
    positive = rng.random(count) < 0.3
    expected = naive_average_precision(scores.tolist(), positive.tolist())
    [measured] = average_precisions(scores[:, None], positive[:, None])
    assert measured == pytest.approx(expected, abs=1e-12)


def test_a_class_without_positives_counts_zero():
    scores, positive = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[True, False]] * 2)
    assert average_precisions(scores, positive).mean() == pytest.approx(0.5)


def test_decisions_are_pooled():
    positive = to_indicator([(0, 1), (2,), ()], 3)
    tags = to_indicator([(0,), (2, 1), (0,)], 3)
    found = tagging_figures(np.zeros((3, 3)), positive, tags, range(3))
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 4), pytest.approx(2 / 3))
    assert found["f1"] == pytest.approx(4 / 7)


def naive_miou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    ious = []
    for k in range(classes):
        intersection = union = occurs = 0
        for truth, prediction in pairs:
            for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
                if t == 255:
                    continue
                occurs += t == k
                intersection += t == k and p == k
                union += t == k or p == k
        if occurs:
            ious.append(intersection / union)
    return sum(ious) / len(ious)


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_the_naive_one(seed: int):
    rng = np.random.default_rng(seed)
    confusion, pairs = Confusion(5), []
    for _ in range(3):
        shape = rng.integers(1, 12, 2)
        truth = rng.choice([0, 1, 2, 255], shape).astype(np.uint8)
        prediction = rng.integers(0, 5, shape).astype(np.uint8)
        confusion.add(truth, prediction)
        pairs.append((truth, prediction))
    assert confusion.miou() == pytest.approx(naive_miou(pairs, 5), abs=1e-12)


def test_all_ignored_has_no_miou():
    confusion = Confusion(3)
    confusion.add(np.full((2, 2), 255, np.uint8), np.ones((2, 2), np.uint8))
    assert math.isnan(confusion.miou())


def test_what_cannot_be_compared_is_refused():
    confusion = Confusion(3)
    with pytest.raises(ValueError, match="sizes differ"):
        confusion.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="not below 3"):
        confusion.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
