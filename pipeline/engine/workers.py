"""Who computes: this process, processes of this machine, or the workers of a cluster."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.folder import StageFolder
from pipeline.engine.pool import DIED, Pool, ProcessPool, WorkersDied, prefetch, spread
from pipeline.engine.result_folder import ResultFolder, WorkerFolder
from pipeline.engine.settings import setting
from pipeline.engine.stage import Item, Outputs, Stage
from pipeline.errors import ImageError, UserError

Done = Iterator[tuple[str, str | None]]
"""Ids of images, each with the reason why it was skipped; none where its result is stored."""

Inputs = Mapping[str, Path]
"""The folders that a stage reads, by name."""

_MAX_UNWRITTEN = 4

_WHO = "who computes does not change what is computed"


@dataclass
class ExecutorSettings:
    """``executor=local``: this process, and processes of this machine for the CRF.

    Attributes:
        name: the executor.
    """

    name: str = setting("local", changes="nothing", why=_WHO)


@dataclass
class WorkerSettings(ExecutorSettings):
    """``executor=processes``: processes of this machine, each with its own models.

    Attributes:
        workers: how many; none for ``runtime.workers``.
        threads: of torch in each; none for the cores divided by the workers.
        shard_size: images that a worker is given at a time; none for 4, or 16 batches on a GPU.
    """

    name: str = setting("processes", changes="nothing", why=_WHO)
    workers: int | None = setting(None, at_least=1, changes="nothing", why=_WHO)
    threads: int | None = setting(
        None, at_least=1, changes="rounding", why="sums are split by threads"
    )
    shard_size: int | None = setting(None, at_least=1, changes="nothing", why=_WHO)

    def threads_of(self, size: int) -> int | None:
        """Returns torch's threads in each of so many workers; none leaves the choice to torch."""
        return self.threads or max(1, (os.cpu_count() or 1) // size)

    def start(self, size: int) -> Pool:
        """Returns so many workers."""
        return ProcessPool(size, self.threads_of(size))


def compute_here(
    stage: Stage,
    model: Callable[[], Any],
    folders: Sequence[ResultFolder],
    items: Sequence[Item],
) -> Done:
    """Computes and stores results in this process; a thread writes files as the model goes on.

    Args:
        stage: the stage.
        model: returns what the stage loads.
        folders: those of ``stage.outputs``.
        items: the images.
    """

    def store(computed: tuple[Item, Outputs | ImageError]) -> str | None:
        item, outputs = computed
        if isinstance(outputs, ImageError):
            return str(outputs)
        # The stage's own folder comes last, so that an image with an entry there is complete.
        for folder, output in reversed(list(zip(folders, outputs))):
            if output is not None:
                files = {k: data() if callable(data) else data for k, data in output.files.items()}
                folder.write(item.sample.id, output.input or item.input, files, **output.facts)
        return None

    computed = stage.compute(items, model)
    for (item, _), reason in prefetch(computed, store, 1, _MAX_UNWRITTEN):
        yield item.sample.id, reason


class Workers:
    """Computes shard by shard in a pool; this process alone writes the journals."""

    def __init__(
        self,
        make_pool: Callable[[], Pool],
        threads: int | None = None,
        shard_size: int | None = None,
    ):
        """Starts no worker yet.

        Args:
            make_pool: starts the workers.
            threads: of torch in each; none leaves the choice to torch.
            shard_size: images that a worker is given at a time; none asks the stage.
        """
        self._make_pool = make_pool
        self._threads = threads
        self._shard_size = shard_size

    @cached_property
    def _pool(self) -> Pool:
        return self._make_pool()

    def compute(
        self, stage: Stage, inputs: Inputs, folders: Sequence[StageFolder], items: Sequence[Item]
    ) -> Done:
        """Computes and stores results; an image whose workers die is skipped."""
        places = [(folder.path, folder.recipe) for folder in folders]
        pickled = pickle.dumps((stage, inputs, stage.recipe))
        work = partial(compute_shard, pickled, places, self._threads)
        size = self._shard_size or stage.shard_size
        shards = [items[start : start + size] for start in range(0, len(items), size)]
        while shards:
            deadly: list[Item] = []
            for shard, done in spread(self._pool, work, shards):
                if isinstance(done, WorkersDied):
                    deadly += shard
                    continue
                entries, failures = done
                for folder, lines in zip(folders, entries):
                    for line in lines:
                        folder.adopt(line)
                for item in shard:
                    yield item.sample.id, failures.get(item.sample.id)
            if size == 1:
                yield from ((item.sample.id, DIED) for item in deadly)
                return
            # A single image of such a shard may be the cause; the others must not suffer from it.
            shards, size = [[item] for item in deadly], 1

    def close(self, at_once: bool = False) -> None:
        """Ends the workers, if there are any."""
        if "_pool" in self.__dict__:
            self._pool.close(at_once)
            del self._pool


def compute_shard(
    pickled: bytes,
    places: Sequence[tuple[Path, str]],
    threads: int | None,
    items: Sequence[Item],
) -> tuple[list[list[dict]], dict[str, str]]:
    """Computes images in a worker.

    Args:
        pickled: the stage, the folders that it reads, and its recipe.
        places: path and recipe of each folder that receives results.
        threads: of torch; none leaves the choice to torch.
        items: the images.

    Returns:
        The journal entries for each folder; and id → reason, of the images that were skipped.

    Raises:
        UserError: what the user can fix, such as a full disk.
    """
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    folders = [WorkerFolder(*place) for place in places]
    try:
        done = dict(compute_here(*_resident(pickled), folders, items))
    finally:
        for folder in folders:
            folder.close()
    failures = {image_id: reason for image_id, reason in done.items() if reason is not None}
    return [folder.entries for folder in folders], failures


@lru_cache(maxsize=1)
def _resident(pickled: bytes) -> tuple[Stage, Callable[[], Any]]:
    """Returns a stage with its model, which stays from shard to shard.

    The recipe tells apart stages that differ in the contents of a file alone, such as new weights.
    """
    try:
        stage, inputs, _ = pickle.loads(pickled)  # of the process that asks for results
    except ModuleNotFoundError as error:
        raise UserError(
            f"a worker cannot import {error.name}: install the plug-in there, or add its folder to"
            " the worker's PYTHONPATH"
        ) from error
    return stage, cache(partial(stage.load, inputs))


class Executor:
    """Chooses who computes a stage, by ``executor`` and ``runtime.workers``."""

    def __init__(self, settings: ExecutorSettings, workers: int):
        """Starts no worker yet.

        Args:
            settings: the executor.
            workers: processes of this machine, unless the settings say it.
        """
        self._size = workers
        self._workers: Workers | None = None
        self._computes_all = isinstance(settings, WorkerSettings)
        if isinstance(settings, WorkerSettings):
            size = settings.workers or workers
            make_pool = partial(settings.start, size)
            self._workers = Workers(make_pool, settings.threads_of(size), settings.shard_size)

    def compute(
        self, stage: Stage, inputs: Inputs, folders: Sequence[StageFolder], items: Sequence[Item]
    ) -> Done:
        """Computes and stores results, wherever the stage is to be computed."""
        if not self._computes_all:
            size = min(self._size, len(items)) if stage.in_processes else 1
            if size == 1:
                return compute_here(stage, cache(partial(stage.load, inputs)), folders, items)
            self._workers = Workers(partial(ProcessPool, size), shard_size=1)
        return self._workers.compute(stage, inputs, folders, items)

    def close(self, at_once: bool = False) -> None:
        """Ends the workers, if there are any."""
        if self._workers is not None:
            self._workers.close(at_once)
