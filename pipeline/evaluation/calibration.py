"""Calibration of one threshold for all classes, against the best threshold of each class."""

from collections.abc import Sequence

import numpy as np

from pipeline.evaluation.metrics import decision_figures


def calibration_figures(
    scores: np.ndarray, positive: np.ndarray, tags: np.ndarray, classes: Sequence[str]
) -> dict:
    """Measures the tags of each class, and the threshold of its scores with the best F1.

    Args:
        scores: N×n float, which one threshold makes tags of, such as standardised ones.
        positive: the ground truth, N×n bool.
        tags: what the threshold chose, N×n bool.
        classes: n names.

    Returns:
        "threshold", the common one that gives the best F1 of all decisions together, "f1" of it,
        both none without positives; and "per_class", for each class that has positives the
        "precision", "recall" and "f1" of its tags, and "best_threshold" with its "best_f1".
    """
    threshold, f1 = best_threshold(scores.ravel(), positive.ravel())
    per_class = {}
    for name, class_scores, present, chosen in zip(classes, scores.T, positive.T, tags.T):
        if present.any():
            best, best_f1 = best_threshold(class_scores, present)
            per_class[name] = {
                **decision_figures(chosen, present),
                "best_threshold": best,
                "best_f1": best_f1,
            }
    return {"threshold": threshold, "f1": f1, "per_class": per_class}


def best_threshold(scores: np.ndarray, positive: np.ndarray) -> tuple[float | None, float | None]:
    """Returns the threshold that scores must exceed for the best F1, and that F1.

    It lies midway between two scores, or at half a unit below the lowest one; of equally good ones
    it is the highest. Takes N float and N bool; none for both if nothing is positive.
    """
    if not positive.any():
        return None, None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(positive[order])
    below = np.append(ranked[1:], ranked[-1] - 1)
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    best = int(np.where(ranked > below, f1, -1).argmax())  # equal scores are above it or below it
    return float((ranked[best] + below[best]) / 2), float(f1[best])
