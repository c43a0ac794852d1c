"""The metric of validation during training; importing this module imports mmsegmentation."""

from collections.abc import Sequence

import torch

from pipeline.segmenter.mmseg import import_mmseg

import_mmseg()

from mmseg.evaluation import IoUMetric  # noqa: E402


class ValidationIoU(IoUMetric):
    """mmsegmentation's metric, with both means also under their names in ``metrics.json``."""

    def compute_metrics(self, results: Sequence[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Returns percentages with two decimals; ``mIoU`` and ``miou_union`` are the same."""
        measured = super().compute_metrics(results)
        intersection, union, _, truth = (sum(areas) for areas in zip(*results))
        present = truth > 0
        miou = 100 * float((intersection[present] / union[present]).mean())
        return {**measured, "miou": round(miou, 2), "miou_union": measured["mIoU"]}
