"""Average precision, F1 and its calibration, and mIoU (docs/method.md, section 5)."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.evaluation.bootstrap import class_figures, figures
from pipeline.files.label_images import IGNORE

_VISIBLE = 0.0005  # a difference that a table with one decimal of percent can show


def as_number(value: object) -> float | None:
    """Returns a finite number, or none for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def average_precisions(scores: np.ndarray, positive: np.ndarray, ties: int = 0) -> np.ndarray:
    """Returns each class's sum over hits of the precision at their rank, over its positives.

    Takes N×n float and N×n bool, and returns n float64; NaN for a class without positives. Images
    of equal score are ranked in their given order, or with ``ties`` of 1 or −1 with the positive
    ones first or last, which gives the highest and the lowest value of any order.
    """
    values = []
    for class_scores, present in zip(scores.T, positive.T):
        hits = present[np.lexsort((-ties * present.astype(int), -class_scores))]  # stable
        ranks = np.flatnonzero(hits) + 1
        precisions = np.arange(1, len(ranks) + 1) / ranks
        values.append(precisions.sum() / len(ranks) if len(ranks) else np.nan)
    return np.array(values)


def mean_average_precision(precisions: np.ndarray, absent_as_zero: bool) -> float | None:
    """Returns the mean over the classes that have positives; none if no class has.

    With ``absent_as_zero`` it is the mean over all classes, of which those without count 0.
    """
    return as_number(_mean(np.nan_to_num(precisions) if absent_as_zero else precisions))


def tagging_figures(
    scores: np.ndarray,
    positive: np.ndarray,
    tags: np.ndarray,
    classes: Sequence[str],
    absent_as_zero: bool = False,
) -> dict:
    """Measures scores, N×n float, and the tags that were chosen by them, N×n bool.

    ``positive`` is the ground truth, N×n bool; ``classes`` are n names. For ``absent_as_zero`` see
    :func:`mean_average_precision`.

    Returns:
        As in ``metrics.json``, all in [0, 1] but numbers of images and classes: "map", the mean
        average precision, and "map_classes", how many classes it is the mean of, both none if
        scores are decisions; "map_of_ties", its lowest and highest value for any order of images of
        equal score, if these differ by 0.05 points or more; "f1", "precision" and "recall" of all
        decisions, pooled; and the figures of each class.
    """
    # Decisions, which are 0 and 1 alone, rank nothing and have no AP.
    positives, ranked = positive.sum(0), not np.isin(scores, (0, 1)).all()
    precisions = average_precisions(scores, positive) if ranked else np.full(len(positives), np.nan)
    averaged = len(positives) if absent_as_zero else int((positives > 0).sum())
    extremes = [average_precisions(scores, positive, ties) for ties in (-1, 1)] if ranked else []
    tie_bounds = [mean_average_precision(values, absent_as_zero) or 0.0 for values in extremes]
    return {
        "map": mean_average_precision(precisions, absent_as_zero) if ranked else None,
        "map_classes": averaged if ranked else None,
        **({"map_of_ties": tie_bounds} if ranked and np.ptp(tie_bounds) >= _VISIBLE else {}),
        **decision_figures(tags, positive),
        "classes_without_positives": int((positives == 0).sum()),
        "per_class": {
            name: {"ap": as_number(precision), "positives": int(n)}
            for name, precision, n in zip(classes, precisions, positives)
        },
    }


def decision_figures(tags: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Returns "f1", "precision" and "recall" of decisions, bool of any shape, all pooled."""
    tally = np.array([[(tags & positive).sum()], [positive.sum()], [tags.sum()]])
    return {name: float(value) for name, value in figures(tally, of_tags=True).items()}


def calibration_figures(
    scores: np.ndarray, positive: np.ndarray, tags: np.ndarray, classes: Sequence[str]
) -> dict:
    """Measures the tags of each class, and the threshold of its scores with the best F1.

    One threshold makes tags, N×n bool, of scores, N×n float, such as standardised ones. For the
    rest see :func:`tagging_figures`.

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
            found = {"best_threshold": best, "best_f1": best_f1}
            per_class[name] = decision_figures(chosen, present) | found
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


def merge_classes(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Returns the highest score, or any decision, among the members of coarser classes: N×m.

    ``values`` are N×n float or bool; ``groups`` are the coarse classes of the n, from 0 to m−1.
    """
    groups = np.asarray(groups)
    return np.stack([values[:, groups == g].max(1) for g in range(groups.max() + 1)], 1)


def to_indicator(tags: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """Returns lists of class indices as N×n bool."""
    indicator = np.zeros((len(tags), num_classes), bool)
    for row, indices in zip(indicator, tags):
        row[list(indices)] = True
    return indicator


class Confusion:
    """A confusion matrix of pooled pixels, (n+1)×(n+1) int64: ground truth × predictions."""

    def __init__(self, num_labels: int):
        """Starts with no pixel; ``num_labels`` is n+1, with the background."""
        self.matrix = np.zeros((num_labels, num_labels), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds an image's labels, H×W uint8 each; pixels whose ground truth is 255 do not count.

        Raises a ValueError if sizes differ, or a label is out of range.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"sizes differ: {truth.shape} and {prediction.shape}")
        counted, num_labels = truth != IGNORE, len(self.matrix)
        truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        if len(truth) and max(truth.max(), prediction.max()) >= num_labels:
            raise ValueError(f"a label is not below {num_labels}")
        counts = np.bincount(truth * num_labels + prediction, minlength=self.matrix.size)
        self.matrix += counts.reshape(self.matrix.shape)

    def merged(self, groups: Sequence[int]) -> "Confusion":
        """Returns the matrix of coarser classes; ``groups`` gives each label's coarse label."""
        membership = np.eye(max(groups) + 1, dtype=np.int64)[list(groups)]
        coarse = Confusion(membership.shape[1])
        coarse.matrix = membership.T @ self.matrix @ membership
        return coarse

    def iou(self) -> np.ndarray:
        """Returns n+1 float64; NaN for classes that are not in the ground truth."""
        tally = [self.matrix.diagonal(), self.matrix.sum(1), self.matrix.sum(0)]
        return class_figures(np.array(tally), of_tags=False)

    def miou(self) -> float:
        """Returns the mean over the classes that occur in the ground truth; NaN without any."""
        return _mean(self.iou())

    def miou_union(self) -> float:
        """Returns the mean over the classes that occur in the ground truth or in predictions.

        Those only predicted count 0, as in mmsegmentation and torchmetrics. NaN without any pixel.
        """
        occurs = self.matrix.sum(1) + self.matrix.sum(0) > 0
        return _mean(np.nan_to_num(self.iou()[occurs]))


class Segmentation:
    """Metrics of label maps: pooled over all pixels, and image by image."""

    def __init__(self, names: Sequence[str], levels: Iterable[tuple[Sequence[str], list[int]]]):
        """Starts with no image.

        ``names`` are those of the labels, n+1; ``levels`` give the coarser names above them, and
        the index among these of each of the n+1.
        """
        self._levels = [(names, None), *levels]
        self._pooled = [Confusion(len(names)) for names, _ in self._levels]
        self._means: list[list[float]] = [[] for _ in self._levels]

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds an image, see :meth:`Confusion.add`."""
        image = Confusion(len(self._levels[0][0]))
        image.add(truth, prediction)
        for (_, groups), pooled, means in zip(self._levels, self._pooled, self._means):
            confusion = image if groups is None else image.merged(groups)
            pooled.matrix += confusion.matrix
            means.append(confusion.miou())

    def figures(self) -> dict:
        """Returns the three means and the IoU of each name, as in ``metrics.json``.

        "miou_images" is the mean over images of the mean over the classes in each one's ground
        truth; images in which no pixel counts are skipped. "levels" has those of coarser classes.
        """
        found = [
            {
                "miou": as_number(pooled.miou()),
                "miou_union": as_number(pooled.miou_union()),
                "miou_images": as_number(_mean(np.array(means))),
                "per_class": {n: {"iou": as_number(iou)} for n, iou in zip(names, pooled.iou())},
            }
            for (names, _), pooled, means in zip(self._levels, self._pooled, self._means)
        ]
        return {**found[0], **({"levels": found[1:]} if len(found) > 1 else {})}


def _mean(values: np.ndarray) -> float:
    """Returns the mean of those that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan
