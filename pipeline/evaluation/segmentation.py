"""Mean intersection over union, pooled over a data set (docs/algorithms.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.datasets.vocabulary import IGNORE


@dataclass
class Confusion:
    """A confusion matrix that pooled pixels are added to.

    Attributes:
        num_labels: n+1, with the background.
        matrix: (n+1)×(n+1) int64; rows are the ground truth, columns the predictions.
    """

    num_labels: int
    matrix: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.num_labels, self.num_labels), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds an image's pixels; those whose ground truth is 255 do not count.

        Args:
            truth: H×W uint8, labels 0 to n or 255.
            prediction: H×W uint8, labels 0 to n.

        Raises:
            ValueError: sizes differ, or a label is out of range.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"sizes differ: {truth.shape} and {prediction.shape}")
        counted = truth != IGNORE
        truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        if len(truth) and max(truth.max(), prediction.max()) >= self.num_labels:
            raise ValueError(f"a label is not below {self.num_labels}")
        counts = np.bincount(truth * self.num_labels + prediction, minlength=self.matrix.size)
        self.matrix += counts.reshape(self.matrix.shape)

    def merged(self, groups: Sequence[int]) -> Confusion:
        """Returns the matrix of coarser classes; ``groups`` gives each label's coarse label."""
        membership = np.eye(max(groups) + 1, dtype=np.int64)[list(groups)]
        coarse = Confusion(membership.shape[1])
        coarse.matrix = membership.T @ self.matrix @ membership
        return coarse

    def iou(self) -> np.ndarray:
        """Returns n+1 float64; NaN for classes that are not in the ground truth."""
        hits = np.diag(self.matrix).astype(np.float64)
        truth = self.matrix.sum(1)
        union = truth + self.matrix.sum(0) - hits
        return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)

    def miou(self) -> float:
        """Returns the mean over the classes that occur in the ground truth; NaN without any."""
        iou = self.iou()
        present = ~np.isnan(iou)
        return float(iou[present].mean()) if present.any() else float("nan")
