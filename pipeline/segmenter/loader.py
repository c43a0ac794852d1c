"""The batches of a training, how processes share them, and the images that it is measured on."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from torch.utils.data import DataLoader, Dataset

from pipeline.engine.sample import ImageReader, Sample

_PR_SET_PDEATHSIG = 1
"""An option of Linux's prctl: the signal sent to a process when its parent ends."""


def build_loader(
    dataset: Dataset, indices: Iterable[int], batch_size: int, workers: int
) -> DataLoader:
    """Returns a loader of samples in this order, in batches as mmengine expects them."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=indices,
        num_workers=workers,
        collate_fn=pseudo_collate,
        worker_init_fn=_end_with_parent,
    )


def positions(
    batch_size: int, start: int, iterations: int, rank: int = 0, processes: int = 1
) -> list[int]:
    """Returns the samples that a process loads, by their positions in the endless sequence.

    Args:
        batch_size: images per batch, over all processes, of which each gets a consecutive part.
        start: the number of finished iterations.
        iterations: the number of all iterations.
        rank: the rank of this process among those that train.
        processes: the number of processes that train.
    """
    share = batch_size // processes
    firsts = range(start * batch_size + rank * share, iterations * batch_size, batch_size)
    return [first + place for first in firsts for place in range(share)]


def _end_with_parent(worker: int) -> None:
    """Makes a process that loads images end with its parent, however the parent ends.

    PyTorch notices after seconds, during which the process would keep the folder's lock, which it
    inherited. Ctrl-C reaches every process of a terminal; only the process that trains handles it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":  # elsewhere processes are spawned and inherit no lock
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # it ended first
        os.kill(os.getpid(), signal.SIGKILL)


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
