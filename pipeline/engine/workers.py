"""Who computes: this process, processes of this machine, or the workers of a cluster."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.folder import StageFolder
from pipeline.engine.pool import DIED, Pool, ProcessPool, WorkersDied, spread
from pipeline.engine.result_folder import ResultFolder, WorkerFolder
from pipeline.engine.settings import setting
from pipeline.engine.stage import Computed, Item, Outputs, Stage
from pipeline.errors import ImageError, UserError

Done = Iterator[tuple[Item, str | None]]
"""Items, each with the reason why it was skipped; none where its result is stored."""

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


class _Computation:
    """A stage with its model, which is loaded when it is first needed."""

    def __init__(self, stage: Stage, inputs: Inputs):
        self._stage = stage
        self._inputs = inputs

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401
        return self._stage.load(self._inputs)

    def __call__(self, items: Sequence[Item]) -> Computed:
        return self._stage.compute(items, lambda: self._model)


def compute_here(
    stage: Stage, inputs: Inputs, folders: Sequence[StageFolder], items: Sequence[Item]
) -> Done:
    """Computes and stores results in this process."""
    return _compute(_Computation(stage, inputs), folders, items)


def _compute(
    computation: _Computation, folders: Sequence[ResultFolder], items: Sequence[Item]
) -> Done:
    """Computes and stores results; one thread writes files while the model goes on."""
    writing: deque[tuple[Item, Future[None]]] = deque()
    with ThreadPoolExecutor(1) as writer:
        for item, result in computation(items):
            if isinstance(result, ImageError):
                yield item, str(result)
                continue
            writing.append((item, writer.submit(_store, folders, item, result)))
            while len(writing) > _MAX_UNWRITTEN or (writing and writing[0][1].done()):
                written, future = writing.popleft()
                future.result()
                yield written, None
        for written, future in writing:
            future.result()
            yield written, None


def _store(folders: Sequence[ResultFolder], item: Item, outputs: Outputs) -> None:
    # The stage's own folder comes last, so that an image with an entry there is complete.
    for folder, output in reversed(list(zip(folders, outputs))):
        if output is not None:
            files = {k: data() if callable(data) else data for k, data in output.files.items()}
            folder.write(item.sample.id, output.input or item.input, files, **output.facts)


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
        places = [(f.path, f.stage, f.split, f.recipe) for f in folders]
        pickled = pickle.dumps((stage, inputs, stage.recipe))
        work = partial(compute_shard, pickled, places, self._threads)
        size = self._shard_size or stage.shard_size
        shards = [items[start : start + size] for start in range(0, len(items), size)]
        deadly: list[Item] = []
        yield from self._spread(work, folders, shards, deadly)
        # A single image of such a shard may be the cause; the others must not suffer from it.
        alone, deadly = [[item] for item in deadly], []
        yield from self._spread(work, folders, alone, deadly)
        for item in deadly:
            yield item, DIED

    def _spread(
        self,
        work: Callable[[list[Item]], tuple[list[list[dict]], dict[str, str]]],
        folders: Sequence[StageFolder],
        shards: Sequence[Sequence[Item]],
        deadly: list[Item],
    ) -> Done:
        """Has shards computed; items of shards whose workers died are added to ``deadly``."""
        by_id = {item.sample.id: item for shard in shards for item in shard}
        portable = ([item.portable() for item in shard] for shard in shards)
        for shard, done in spread(self._pool, work, portable):
            items = [by_id[item.sample.id] for item in shard]
            if isinstance(done, WorkersDied):
                deadly += items
                continue
            entries, failures = done
            for folder, lines in zip(folders, entries):
                for line in lines:
                    folder.adopt(line)
            for item in items:
                yield item, failures.get(item.sample.id)

    def close(self, at_once: bool = False) -> None:
        """Ends the workers, if there are any."""
        if "_pool" in self.__dict__:
            self._pool.close(at_once)
            del self._pool


def compute_shard(
    pickled: bytes,
    places: Sequence[tuple[Path, str, str, str]],
    threads: int | None,
    items: list[Item],
) -> tuple[list[list[dict]], dict[str, str]]:
    """Computes images in a worker.

    Args:
        pickled: the stage, the folders that it reads, and its recipe.
        places: path, stage, split and recipe of each folder that receives results.
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
        done = _compute(_resident(pickled), folders, items)
        failures = {item.sample.id: reason for item, reason in done if reason is not None}
    finally:
        for folder in folders:
            folder.close()
    return [folder.entries for folder in folders], failures


@lru_cache(maxsize=1)
def _resident(pickled: bytes) -> _Computation:
    """Returns a stage that keeps its model from shard to shard.

    The recipe tells apart stages that differ in the contents of a file alone, such as new weights.
    """
    try:
        stage, inputs, _ = pickle.loads(pickled)  # of the process that asks for results
    except ModuleNotFoundError as error:
        raise UserError(
            f"a worker cannot import {error.name}: install the plug-in there, or add its folder to"
            " the worker's PYTHONPATH"
        ) from error
    return _Computation(stage, inputs)


class Executor:
    """Chooses who computes a stage, by ``executor`` and ``runtime.workers``."""

    def __init__(self, settings: ExecutorSettings, workers: int):
        """Starts no worker yet.

        Args:
            settings: the executor.
            workers: processes of this machine, unless the settings say it.
        """
        size = getattr(settings, "workers", None) or workers
        self._everything: Workers | None = None
        self._processes: dict[int, Workers] = {}
        self._max_processes = size
        if isinstance(settings, WorkerSettings):
            threads = _threads(settings, size)
            if settings.name == "processes":
                make_pool = partial(ProcessPool, size, threads or 1)
            else:
                from pipeline.engine.dask_pool import DaskPool

                make_pool = partial(DaskPool, settings, size)
            self._everything = Workers(make_pool, threads, settings.shard_size)

    def compute(
        self, stage: Stage, inputs: Inputs, folders: Sequence[StageFolder], items: Sequence[Item]
    ) -> Done:
        """Computes and stores results, wherever the stage is to be computed."""
        if self._everything is not None:
            return self._everything.compute(stage, inputs, folders, items)
        size = min(self._max_processes, len(items)) if stage.in_processes else 1
        if size == 1:
            return compute_here(stage, inputs, folders, items)
        if size not in self._processes:
            self._processes[size] = Workers(partial(ProcessPool, size), shard_size=1)
        return self._processes[size].compute(stage, inputs, folders, items)

    def close(self, at_once: bool = False) -> None:
        """Ends the workers, if there are any."""
        for workers in filter(None, (self._everything, *self._processes.values())):
            workers.close(at_once)


def _threads(settings: WorkerSettings, size: int) -> int | None:
    if settings.threads or getattr(settings, "address", None):
        return settings.threads
    if getattr(settings, "cluster", None):
        return None  # as many as the batch system gives
    return max(1, (os.cpu_count() or 1) // size)
