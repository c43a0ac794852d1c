"""Figures of two results, and intervals of their differences, against loops that share no code."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import RESAMPLES, class_figures, figures
from pipeline.evaluation.metrics import Confusion, average_precisions, decision_figures

N, SIDE = 7, 6


def difference_intervals(tallies: np.ndarray, of_tags: bool) -> dict[str, tuple[float, float]]:
    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return figures(np.einsum("rn,n...->r...", weights, tallies), of_tags)

    return bootstrap.difference_intervals(measure, len(tallies))


def draw_labels(rng: np.random.Generator) -> tuple[list, list[list]]:
    """Returns the ground truth of N images, and two results of them, the second the better one."""
    truths = [rng.integers(0, 3, (SIDE, SIDE)).astype(np.uint8) for _ in range(N)]
    results = []
    for share in (0.5, 0.2):
        wrong = [rng.random((SIDE, SIDE)) < share for _ in range(N)]
        results.append([np.where(w, 1, t).astype(np.uint8) for w, t in zip(wrong, truths)])
    for truth in truths:
        truth[0] = 255  # which does not count
    return truths, results


def confusion_of(truths: list, labels: list, ids) -> Confusion:
    confusion = Confusion(4)  # of which the last label never occurs
    for k in ids:
        confusion.add(truths[k], labels[k])
    return confusion


def tally(matrix: np.ndarray) -> list:
    return [matrix.diagonal(), matrix.sum(1), matrix.sum(0)]


def test_the_interval_of_miou_is_that_of_a_loop_over_resampled_images():
    truths, results = draw_labels(np.random.default_rng(5))
    tallies = np.array(
        [[tally(confusion_of(truths, each, [k]).matrix) for each in results] for k in range(N)]
    )
    rng = np.random.default_rng(0)
    differences = []
    for counts in rng.multinomial(N, [1 / N] * N, RESAMPLES):
        ids = [k for k, count in enumerate(counts) for _ in range(count)]
        a, b = (confusion_of(truths, each, ids).miou() for each in results)
        differences.append(b - a)
    expected = np.percentile(differences, [2.5, 97.5])
    assert difference_intervals(tallies, of_tags=False)["miou"] == pytest.approx(expected)
    assert expected[0] > 0.1 and np.ptp(expected) > 0.02, "else the test would prove little"
    pooled = [confusion_of(truths, each, range(N)) for each in results]
    found = figures(tallies.sum(0), of_tags=False)["miou"]
    assert found == pytest.approx([each.miou() for each in pooled])
    classes = class_figures(tallies.sum(0), of_tags=False)
    np.testing.assert_allclose(classes, [each.iou() for each in pooled])
    assert np.isnan(classes[:, 3]).all()


def test_the_intervals_of_tags_are_those_of_a_loop_over_resampled_images():
    rng = np.random.default_rng(7)
    positive = rng.random((N, 4)) < 0.4
    results = [positive ^ (rng.random((N, 4)) < share) for share in (0.4, 0.1)]
    tallies = np.array(
        [[[positive[k] & r[k], positive[k], r[k]] for r in results] for k in range(N)], int
    )
    rng, differences = np.random.default_rng(0), []
    for counts in rng.multinomial(N, [1 / N] * N, RESAMPLES):
        ids = np.repeat(np.arange(N), counts)
        a, b = (decision_figures(each[ids], positive[ids]) for each in results)
        differences.append([b[name] - a[name] for name in b])
    expected = np.percentile(differences, [2.5, 97.5], axis=0).T
    intervals = difference_intervals(tallies, of_tags=True)
    assert [*intervals] == ["f1", "precision", "recall"]
    np.testing.assert_allclose([*intervals.values()], expected)
    found = figures(tallies.sum(0), of_tags=True)
    for index, each in enumerate(results):
        named = {name: value[index] for name, value in found.items()}
        assert named == pytest.approx(decision_figures(each, positive))


def test_equal_results_differ_in_nothing():
    truths, results = draw_labels(np.random.default_rng(1))
    same = [tally(confusion_of(truths, results[0], [k]).matrix) for k in range(N)]
    assert difference_intervals(np.array([[t, t] for t in same]), False) == {"miou": (0, 0)}


def test_tags_of_images_without_any_are_zero_and_not_an_error():
    assert difference_intervals(np.zeros((3, 2, 3, 4), int), True)["f1"] == (0, 0)


@pytest.mark.parametrize("absent_as_zero", [False, True])
def test_the_interval_of_map_is_that_of_a_loop_over_resampled_images(absent_as_zero):
    rng = np.random.default_rng(3)
    positive = rng.random((N, 4)) < 0.3
    positive[:, 3] = False
    scores = np.stack([positive + rng.normal(size=(N, 4)) * noise for noise in (2, 0.5)])
    differences = []
    for counts in np.random.default_rng(0).multinomial(N, [1 / N] * N, RESAMPLES):
        values = []
        for each in scores:
            per_class = []
            for k in range(4):
                ranked = sorted(range(N), key=lambda i: -each[i, k])
                seen = hits = total = 0
                for i in ranked:  # an image that was drawn several times counts at one rank
                    seen, hits = seen + counts[i], hits + counts[i] * positive[i, k]
                    total += counts[i] * positive[i, k] * hits / max(seen, 1)
                per_class.append(total / hits if hits else np.nan)
            known = [value for value in per_class if not np.isnan(value)]
            values.append(sum(known) / (4 if absent_as_zero else max(1, len(known))))
        differences.append(values[1] - values[0])

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        precisions = bootstrap.mean_average_precisions(scores, positive, weights, absent_as_zero)
        return {"map": precisions}

    found = bootstrap.difference_intervals(measure, N)["map"]
    assert found == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    once = measure(np.ones((1, N), int))["map"][0]
    expected = [np.nan_to_num(average_precisions(each, positive)).sum() for each in scores]
    assert once == pytest.approx(np.array(expected) / (4 if absent_as_zero else 3))
