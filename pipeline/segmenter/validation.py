"""Measures a segmenter during training, on images that it does not learn from.

No weight depends on these figures; they appear in the log and select the best checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from torch.utils.data import Dataset

from pipeline.engine.sample import ImageReader, Sample
from pipeline.files.label_images import IGNORE
from pipeline.segmenter.checkpoints import METRIC
from pipeline.segmenter.loader import build_loader
from pipeline.segmenter.mmseg import import_mmseg


class Labelled(Dataset):
    """Whole images with their ground truth.

    Args:
        samples: images; those without a ground-truth mask are skipped.
        read: decodes them.
        metainfo: classes and palette.
    """

    def __init__(
        self, samples: Sequence[Sample], read: ImageReader, metainfo: dict[str, Any]
    ) -> None:
        self.metainfo = metainfo
        self._samples = [s for s in samples if s.mask is not None]
        self._read = read

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``inputs`` (3×h×w uint8 tensor, BGR) and ``data_samples`` (SegDataSample)."""
        from mmseg.structures import SegDataSample

        sample = self._samples[index]
        image, size = self._read(sample)
        truth = torch.from_numpy(sample.mask.read().astype(np.int64))
        labelled = SegDataSample(gt_sem_seg=PixelData(data=truth[None]))
        # mmsegmentation resizes predictions to ori_shape, also if the image was shrunk.
        labelled.set_metainfo(
            {"ori_shape": size, "img_shape": image.shape[:2], "img_id": sample.id}
        )
        bgr = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
        return {"inputs": torch.from_numpy(bgr), "data_samples": labelled}


def configure_validation(dataset: Labelled, workers: int) -> dict[str, Any]:
    """Returns the arguments with which mmengine's Runner validates.

    Args:
        dataset: images to measure on, distributed over the processes.
        workers: processes that load images; 0 loads them in this process.
    """
    import_mmseg()
    from mmseg.evaluation import IoUMetric

    # "cpu" exchanges pickles on disk; "gpu" sends tensors between processes, on CPUs as well.
    metric = IoUMetric(ignore_index=IGNORE, iou_metrics=[METRIC], collect_device="gpu")
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dataset.metainfo
    loader = build_loader(dataset, DefaultSampler(dataset, shuffle=False), 1, workers)
    return {"val_dataloader": loader, "val_cfg": {"type": "ValLoop"}, "val_evaluator": evaluator}
