"""Figures of two results on the same images, and a paired bootstrap of their differences.

All follow from tallies, 3×k: how often each of k classes, or labels, was hit, is in the ground
truth, and was predicted. The tally of several images is the sum of theirs.
"""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
_AT_ONCE = 100  # resamples in memory


def class_figures(tallies: np.ndarray, of_tags: bool) -> np.ndarray:
    """Returns F1 or IoU of each class from tallies, …×3×k: …×k, NaN for those without truth."""
    hits, truth, predicted = np.moveaxis(tallies, -2, 0)
    numerator, shared = (2 * hits, 0) if of_tags else (hits, hits)
    return np.where(truth > 0, numerator / np.maximum(truth + predicted - shared, 1), np.nan)


def figures(tallies: np.ndarray, of_tags: bool) -> dict[str, np.ndarray]:
    """Returns figures by their names in ``metrics.json``, the main one first.

    Tallies of labels, …×3×k, have at least one pixel of ground truth each.
    """
    if not of_tags:
        return {"miou": np.nanmean(class_figures(tallies, of_tags), -1)}
    hits, truth, predicted = np.moveaxis(tallies.sum(-1), -1, 0)
    return {
        "f1": 2 * hits / np.maximum(truth + predicted, 1),
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(truth, 1),
    }


def difference_intervals(tallies: np.ndarray, of_tags: bool) -> dict[str, tuple[float, float]]:
    """Returns 95% intervals of the second result's :func:`figures` minus the first's.

    They are percentiles over resamples of the images with replacement, in each of which both
    results are measured. A resample is a vector of how often each image was drawn.

    Args:
        tallies: of N images and two results, N×2×3×k.
        of_tags: whether they are of tags, not of labels.
    """
    flat, differences = tallies.reshape(len(tallies), -1).astype(np.float64), []
    for weights in _resamples(len(tallies)):
        sums = (weights @ flat).reshape(_AT_ONCE, *tallies.shape[1:])
        differences.append([np.diff(value)[:, 0] for value in figures(sums, of_tags).values()])
    bounds = np.percentile(np.concatenate(differences, 1), (2.5, 97.5), axis=1)
    return dict(zip(figures(tallies, of_tags), map(tuple, bounds.T.tolist())))


def map_interval(
    scores: np.ndarray, positive: np.ndarray, absent_as_zero: bool
) -> tuple[float, float]:
    """Returns the 95% interval of the second result's mAP minus the first's.

    An image that is drawn several times counts as often, at one rank.

    Args:
        scores: of two results, 2×N×n float.
        positive: the ground truth, N×n bool.
        absent_as_zero: see :func:`pipeline.evaluation.metrics.mean_average_precision`.
    """
    differences = []
    for weights in _resamples(len(positive)):
        a, b = (_weighted_map(each, positive, weights, absent_as_zero) for each in scores)
        differences.append(b - a)
    low, high = np.nanpercentile(np.concatenate(differences), (2.5, 97.5)).tolist()
    return low, high


def _weighted_map(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, absent_as_zero: bool
) -> np.ndarray:
    """Returns the mAP of each resample, R×N integers: R float64."""
    precisions = []
    for class_scores, present in zip(scores.T, positive.T):
        order = np.argsort(-class_scores, kind="stable")
        drawn, hits = weights[:, order], weights[:, order] * present[order]
        precision = hits.cumsum(1) / np.maximum(drawn.cumsum(1), 1)
        with np.errstate(invalid="ignore"):
            precisions.append((hits * precision).sum(1) / hits.sum(1))
    values = np.array(precisions)
    if absent_as_zero:
        return np.nan_to_num(values).mean(0)
    counted = np.maximum((~np.isnan(values)).sum(0), 1)
    return np.nansum(values, 0) / counted


def _resamples(number: int) -> Iterator[np.ndarray]:
    """Yields how often each of some images was drawn with replacement, R×N, a few at a time."""
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES // _AT_ONCE):
        yield rng.multinomial(number, np.full(number, 1 / number), _AT_ONCE)
