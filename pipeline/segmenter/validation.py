"""The metric of validation during training; importing this module imports mmsegmentation."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from torch import nn

from pipeline.files.label_images import IGNORE
from pipeline.segmenter.architecture import smallest_side
from pipeline.segmenter.checkpoints import METRIC
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.samples import Labelled, build_loader

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


def measurements(model: nn.Module, labelled: Labelled, workers: int) -> dict[str, Any]:
    """Returns what the runner is told of the measurements of a network."""
    if not model.data_preprocessor.test_cfg and (side := smallest_side(model)) > 1:
        model.data_preprocessor.test_cfg = {"size": (side, side)}  # pads smaller images
    sampler = DefaultSampler(labelled, shuffle=False)
    return {
        "val_dataloader": build_loader(labelled, sampler, 1, workers),
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": {
            "type": ValidationIoU,
            "ignore_index": IGNORE,
            "iou_metrics": [METRIC],
            "collect_device": "gpu",  # sends tensors, on CPUs too; "cpu" writes pickles to disk
        },
    }
