"""The batches of a training, and how processes share them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

_PR_SET_PDEATHSIG = 1
"""An option of Linux's prctl: the signal sent to a process when its parent ends."""


def build_loader(
    dataset: Dataset, indices: Iterable[int], batch_size: int, workers: int
) -> DataLoader:
    """Returns a loader of batches as mmengine expects them.

    Args:
        dataset: the samples.
        indices: those to load, in this order.
        batch_size: samples per batch.
        workers: processes that load images; 0 loads them in this process.
    """
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
        batch_size: images per batch, over all processes.
        start: the number of finished iterations.
        iterations: the number of all iterations.
        rank: the rank of this process among those that train.
        processes: the number of processes that train; each gets a consecutive part of a batch.
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
