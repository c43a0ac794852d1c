"""AP, F1 and mIoU where libraries do not have them: no positives, ties, coarser levels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.metrics import (
    Confusion,
    Segmentation,
    average_precisions,
    tagging_figures,
    to_indicator,
)


def test_a_class_without_positives_is_left_out_of_map_alone():
    scores, positive = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[True, False], [False, False]])
    tags = scores > 0.25
    found = tagging_figures(scores, positive, tags, ["cat", "cup"])
    assert (found["map"], found["map_classes"]) == (1, 1)
    assert found["per_class"]["cup"] == {"ap": None, "positives": 0}
    # The wrong tag of the absent class counts in all else.
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 2), 1)
    released = tagging_figures(scores, positive, tags, ["cat", "cup"], absent_as_zero=True)
    assert (released["map"], released["map_classes"]) == (0.5, 2)
    assert released["per_class"] == found["per_class"] and released["f1"] == found["f1"]


@pytest.mark.parametrize(
    ("positive", "tags", "expected"),
    [
        ([True, False], [True, False], (1, 1, 1)),
        ([False, False], [False, False], (0, 0, 0)),
        ([True, False], [False, False], (0, 0, 0)),
        ([False, False], [True, False], (0, 0, 0)),
    ],
)
def test_one_decision_or_none_is_measured(positive, tags, expected):
    scores, positive, tags = np.array([[0.9, 0.1]]), np.array([positive]), np.array([tags])
    found = tagging_figures(scores, positive, tags, ["cat", "cup"])
    assert (found["f1"], found["precision"], found["recall"]) == expected
    assert found["classes_without_positives"] == 2 - positive.sum()


def test_without_any_positive_there_is_no_map():
    found = tagging_figures(np.array([[0.9, 0.1]]), np.zeros((1, 2), bool), np.eye(2)[:1] > 0, "ab")
    assert (found["map"], found["map_classes"]) == (None, 0) and "map_of_ties" not in found


def test_decisions_have_no_map():
    positive, tags = to_indicator([(0,), (1,), (0, 1)], 2), to_indicator([(0,), (0,), (1,)], 2)
    found = tagging_figures(tags.astype(np.float32), positive, tags, "ab")
    assert (found["map"], found["map_classes"]) == (None, None)
    assert [each["ap"] for each in found["per_class"].values()] == [None, None]
    assert found["f1"] == pytest.approx(4 / 7) and "map_of_ties" not in found


def test_a_map_that_hangs_on_the_order_of_images_has_its_range():
    positive, scores = np.zeros((10, 1), bool), np.full((10, 1), 0.5)
    scores[0] = 0.4  # one score alone would be a rank as well
    positive[-2:] = True
    tags = scores > 0.9
    last, first = (
        tagging_figures(scores[order], positive[order], tags, "a")
        for order in (slice(None), [9, 8, *range(8)])
    )
    assert last["map_of_ties"] == first["map_of_ties"] == [pytest.approx((1 / 8 + 2 / 9) / 2), 1]
    assert (last["map"], first["map"]) == (last["map_of_ties"][0], 1)
    distinct = tagging_figures(np.arange(10)[:, None] / 10, positive, tags, "a")
    assert "map_of_ties" not in distinct


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_ties_leaves_the_range(seed: int):
    rng = np.random.default_rng(seed)
    scores, positive = rng.random((12, 3)).round(1), rng.random((12, 3)) < 0.4
    low, high = (average_precisions(scores, positive, ties) for ties in (-1, 1))
    for order in (rng.permutation(12) for _ in range(50)):
        values = average_precisions(scores[order], positive[order])
        assert ((low <= values + 1e-12) & (values <= high + 1e-12) | np.isnan(values)).all()


def miou(truth: np.ndarray, prediction: np.ndarray, classes: int) -> float:
    """Returns the mIoU of an image, which is mmsegmentation's (test_against_libraries.py)."""
    confusion = Confusion(classes)
    confusion.add(truth, prediction)
    return confusion.miou()


MEANS = ("miou", "miou_union", "miou_images")


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_over_images_is_that_of_each_one_alone(seed: int):
    rng = np.random.default_rng(seed)
    groups = [0, 1, 1, 2, 2]
    measured, fine, coarse = Segmentation("abcde", [("xyz", groups)]), [], []
    for _ in range(4):
        shape = rng.integers(1, 12, 2)
        truth = rng.choice(rng.choice([0, 1, 2, 3, 255], 3), shape).astype(np.uint8)
        prediction = rng.integers(0, 5, shape).astype(np.uint8)
        measured.add(truth, prediction)
        if (truth != 255).any():
            fine.append(miou(truth, prediction, 5))
            table = np.array([*groups, *[255] * 251], np.uint8)
            coarse.append(miou(table[truth], table[prediction], 3))
    figures = measured.figures()
    assert figures["miou_images"] == pytest.approx(sum(fine) / len(fine), abs=1e-12)
    of_level = figures["levels"][0]["miou_images"]
    assert of_level == pytest.approx(sum(coarse) / len(coarse), abs=1e-12)


def test_all_ignored_has_no_miou():
    confusion = Confusion(3)
    confusion.add(np.full((2, 2), 255, np.uint8), np.ones((2, 2), np.uint8))
    assert math.isnan(confusion.miou()) and math.isnan(confusion.miou_union())
    measured = Segmentation("abc", [])
    measured.add(np.full((2, 2), 255, np.uint8), np.ones((2, 2), np.uint8))
    figures = measured.figures()
    assert {figures[mean] for mean in MEANS} == {None}, "JSON has no NaN"
    whole = np.zeros((2, 2), np.uint8)
    measured.add(whole, whole)
    assert {measured.figures()[mean] for mean in MEANS} == {1}, "an ignored image does not count"


def test_a_predicted_class_that_is_absent_counts_in_the_union_alone():
    measured = Segmentation("abcd", [])
    measured.add(np.array([[0, 0], [1, 1]], np.uint8), np.array([[0, 0], [1, 2]], np.uint8))
    figures = measured.figures()
    assert figures["miou_images"] == figures["miou"]
    assert figures["miou"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["miou_union"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    missed = Confusion(4)
    missed.add(np.array([[0, 0], [1, 1]], np.uint8), np.zeros((2, 2), np.uint8))
    assert missed.miou() == missed.miou_union() == pytest.approx((1 / 2 + 0) / 2)


def test_one_pixel_is_a_class():
    confusion, pixel = Confusion(3), np.ones((1, 1), np.uint8)
    confusion.add(pixel, pixel)
    np.testing.assert_array_equal(confusion.iou(), [np.nan, 1, np.nan])
    assert confusion.miou() == confusion.miou_union() == 1


def test_what_cannot_be_compared_is_refused():
    confusion = Confusion(3)
    with pytest.raises(ValueError, match="sizes differ"):
        confusion.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    labels = np.zeros((2, 2), np.uint8)
    for unknown in (labels + 3, labels + 255):
        with pytest.raises(ValueError, match="not below 3"):
            confusion.add(labels, unknown)
    confusion.add(labels, labels + 2)
    assert confusion.matrix.sum() == 4
