"""Figures of two results on the same images, and a paired bootstrap of their differences.

All follow from tallies, 3×k: how often each of k classes, or labels, was hit, is in the ground
truth, and was predicted. The tally of several images is the sum of theirs.
"""

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
    rng, number = np.random.default_rng(0), len(tallies)
    flat, differences = tallies.reshape(number, -1).astype(np.float64), []
    for _ in range(RESAMPLES // _AT_ONCE):
        weights = rng.multinomial(number, np.full(number, 1 / number), _AT_ONCE)
        sums = (weights @ flat).reshape(_AT_ONCE, *tallies.shape[1:])
        differences.append([np.diff(value)[:, 0] for value in figures(sums, of_tags).values()])
    bounds = np.percentile(np.concatenate(differences, 1), (2.5, 97.5), axis=1)
    return dict(zip(figures(tallies, of_tags), map(tuple, bounds.T.tolist())))
