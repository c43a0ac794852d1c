"""The batches of a training, and which process sees which part of them."""

from __future__ import annotations

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from pipeline.segmenter.samples import ALREADY_SEEN, PseudoLabelled


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
    )
