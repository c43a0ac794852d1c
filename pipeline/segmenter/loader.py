"""The batches of a training, and how processes share them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from pipeline.segmenter.samples import ALREADY_SEEN, PseudoLabelled

_PR_SET_PDEATHSIG = 1
"""An option of Linux's prctl: the signal sent to a process when its parent ends."""


def build_loader(
    dataset: PseudoLabelled,
    batch_size: int,
    start: int,
    iterations: int,
    workers: int,
    *,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader:
    """Builds the loader of a training that starts or resumes after ``start`` iterations.

    mmengine replays the loader when it resumes. Samples that were already seen are empty, so that
    none of them is decoded again.

    Args:
        dataset: the samples.
        batch_size: images per batch, over all processes.
        start: the number of finished iterations.
        iterations: the number of all iterations.
        workers: processes that load images; 0 loads them in this process.
        rank: the rank of this process among those that train.
        processes: the number of processes that train; each gets a consecutive part of a batch.
    """
    share = batch_size // processes
    positions = [ALREADY_SEEN] * (start * share)
    for iteration in range(start, iterations):
        first = iteration * batch_size + rank * share
        positions += range(first, first + share)
    return DataLoader(
        dataset,
        batch_size=share,
        sampler=positions,
        num_workers=workers,
        collate_fn=pseudo_collate,
        worker_init_fn=end_with_parent,
    )


def end_with_parent(worker: int) -> None:
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
