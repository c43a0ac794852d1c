"""The batches of a training, and which process sees which part of them."""

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
"""Of Linux's prctl: the signal that a process gets when the one that started it ends."""


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
    """Builds the loader of a training that begins, or goes on, after ``start`` iterations.

    mmengine replays the loader when it resumes. Positions that were already seen give empty
    samples, so that nothing is decoded for them.

    Args:
        dataset: what to load from.
        batch_size: images in a batch, over all processes.
        start: finished iterations.
        iterations: all iterations, those finished included.
        workers: processes that load; 0 loads in this one.
        rank: which of the processes that train this one is.
        processes: how many train together; every batch is cut into as many consecutive parts.
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
    """Has a process that loads images end when the one that it loads for does, however that ends.

    PyTorch's own watch takes seconds, in which the process would hold the lock of the folder, which
    it inherited. Ctrl-C, which reaches every process of a terminal, is left to the one that trains.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":  # elsewhere processes are spawned, and inherit no lock
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)
