"""Figures of two results on the same images, and a paired bootstrap of their differences.

All follow from tallies, 3×k: how often each of k classes, or labels, was hit, is in the ground
truth, and was predicted. The tally of several images is the sum of theirs.
"""

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000
_AT_ONCE = 100  # resamples in memory


def class_figures(tallies: np.ndarray, of_tags: bool) -> np.ndarray:
    """Returns F1 or IoU of each class from tallies, …×3×k: …×k, NaN for those without truth."""
    hits, truth, predicted = np.moveaxis(tallies, -2, 0)
    numerator, shared = (2 * hits, 0) if of_tags else (hits, hits)
    return np.where(truth > 0, numerator / np.maximum(truth + predicted - shared, 1), np.nan)


def figures(tallies: np.ndarray, of_tags: bool) -> dict[str, np.ndarray]:
    """Returns figures in [0, 1] by their names in ``metrics.json``, the main one first.

    Tallies are …×3×k, hits, ground truth and predicted; those of labels have ground truth.
    """
    if not of_tags:
        return {"miou": np.nanmean(class_figures(tallies, of_tags), -1)}
    hits, truth, predicted = np.moveaxis(tallies.sum(-1), -1, 0)
    return {
        "f1": 2 * hits / np.maximum(truth + predicted, 1),
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(truth, 1),
    }


def mean_average_precisions(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, absent_as_zero: bool
) -> np.ndarray:
    """Returns the mAP of several results, each where images count several times, or not at all.

    An image that counts several times does so at one rank. The mAPs are R×M float64.

    Args:
        scores: of M results, M×N×n float.
        positive: the ground truth, N×n bool, of which some is true.
        weights: how often each image counts, R×N integers.
        absent_as_zero: see :func:`pipeline.evaluation.metrics.mean_average_precision`.
    """
    columns = []
    for result in scores:
        precisions = []
        for class_scores, present in zip(result.T, positive.T):
            order = np.argsort(-class_scores, kind="stable")
            counts, hits = weights[:, order], weights[:, order] * present[order]
            precision = hits.cumsum(1) / np.maximum(counts.cumsum(1), 1)
            with np.errstate(invalid="ignore"):
                precisions.append((hits * precision).sum(1) / hits.sum(1))
        values = np.array(precisions)
        counted = len(values) if absent_as_zero else np.maximum((~np.isnan(values)).sum(0), 1)
        columns.append(np.nansum(values, 0) / counted)
    return np.stack(columns, 1)


def difference_intervals(
    measure: Callable[[np.ndarray], Mapping[str, np.ndarray]], number: int
) -> dict[str, tuple[float, float]]:
    """Returns 95% intervals of the second result's figures minus the first's.

    They are percentiles over resamples of the N images with replacement, in each of which both
    results are measured: ``measure`` returns the figures of both by name, R×2 each, from how often
    each image counts, R×N integers.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES // _AT_ONCE):
        found.append(measure(rng.multinomial(number, np.full(number, 1 / number), _AT_ONCE)))
    differences = {n: np.concatenate([np.diff(each[n])[:, 0] for each in found]) for n in found[0]}
    return {n: (*np.percentile(d, (2.5, 97.5)).tolist(),) for n, d in differences.items()}
