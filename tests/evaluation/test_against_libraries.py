"""mAP and F1 against scikit-learn, mIoU against mmsegmentation.

The conventions differ in ties: scikit-learn gives images of equal score one rank.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from pipeline.evaluation.metrics import Confusion, merge_classes, tagging_figures
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.mmseg import import_mmseg


def random_tagging(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores with many ties, and labels in which a class is absent."""
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(5, 60)), int(rng.integers(3, 9))
    scores, positive = rng.random((images, classes)).round(1), rng.random((images, classes)) < 0.3
    positive[0] = True
    positive[:, rng.integers(classes)] = False
    return scores, positive


@pytest.mark.parametrize("seed", range(10))
def test_tagging_metrics_are_those_of_scikit_learn(seed: int):
    scores, positive = random_tagging(seed)
    found = tagging_figures(scores, positive, scores > 0.6, range(scores.shape[1]))
    present = np.flatnonzero(positive.any(0))
    low, high = found["map_of_ties"]
    # With one rank for equal scores AP is between the extremes of all orders.
    pairs = [(positive[:, k], scores[:, k]) for k in present]
    theirs = np.mean([average_precision_score(*pair) for pair in pairs])
    assert low <= theirs <= high and low <= found["map"] <= high
    # Where the order within ties is made strict, both agree again.
    order = np.arange(len(scores))[:, None] * 1e-6
    strict = tagging_figures(scores - order, positive, scores > 0.6, range(scores.shape[1]))
    assert strict["map"] == pytest.approx(found["map"], abs=1e-12)
    pairs = [(positive[:, k], (scores - order)[:, k]) for k in present]
    theirs = np.mean([average_precision_score(*pair) for pair in pairs])
    assert strict["map"] == pytest.approx(theirs, abs=1e-9)
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        theirs = score(positive, scores > 0.6, average="micro", zero_division=0)
        assert found[name] == pytest.approx(theirs, abs=1e-6)


def random_masks(seed: int, classes: int, absent: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns masks with ignored pixels; the last ``absent`` classes are only predicted."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        size = tuple(rng.integers(5, 40, 2))
        truth = rng.integers(0, classes - absent, size).astype(np.uint8)
        prediction = np.where(rng.random(size) < 0.6, truth, rng.integers(0, classes, size))
        truth[rng.random(size) < 0.1] = IGNORE
        pairs.append((truth, prediction.astype(np.uint8)))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_ious_and_their_two_means_are_those_of_mmsegmentation(seed: int):
    confusion, pairs = Confusion(9), random_masks(seed, 8, absent=2)  # and one does not occur
    for truth, prediction in pairs:
        confusion.add(truth, prediction)
    import_mmseg()
    from mmseg.evaluation import IoUMetric

    of_tensors = [map(torch.from_numpy, pair[::-1]) for pair in pairs]
    areas = [IoUMetric.intersect_and_union(*pair, 9, IGNORE) for pair in of_tensors]
    totals = [sum(parts) for parts in zip(*areas)]
    theirs = IoUMetric.total_area_to_metrics(*totals, ["mIoU"])["IoU"]
    np.testing.assert_allclose(confusion.iou()[:6], theirs[:6], atol=1e-6)
    assert confusion.miou() == pytest.approx(np.mean(theirs[:6]), abs=1e-6)
    assert confusion.miou_union() == pytest.approx(np.nanmean(theirs), abs=1e-6)
    assert confusion.miou() > confusion.miou_union() + 0.05


@pytest.mark.parametrize("seed", range(5))
def test_coarse_iou_is_that_of_relabelled_masks(seed: int):
    groups = [0, 1, 1, 2, 0, 3, 2]
    table = np.full(256, IGNORE, np.uint8)
    table[: len(groups)] = groups
    fine, coarse = Confusion(len(groups)), Confusion(4)
    for truth, prediction in random_masks(seed, len(groups)):
        fine.add(truth, prediction)
        coarse.add(table[truth], table[prediction])
    np.testing.assert_array_equal(fine.merged(groups).matrix, coarse.matrix, strict=True)
    assert fine.merged(groups).miou() == coarse.miou()


def test_a_coarse_class_has_its_best_members_score():
    scores = np.array([[0.1, 0.7, 0.3], [0.4, 0.2, 0.9]])
    assert merge_classes(scores, [0, 1, 0]).tolist() == [[0.3, 0.7], [0.9, 0.2]]
    decided = np.array([[True, False, False], [False, False, False]])
    assert merge_classes(decided, [0, 0, 1]).tolist() == [[True, False], [False, False]]
