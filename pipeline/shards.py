"""Images in shards, each of which a worker does; whoever asked for them alone keeps the journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.folder import StageFolder, WorkerFolder
from pipeline.engine.pool import DIED, Pool, ProcessPool, WorkersDied, spread
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint
from pipeline.method import Method
from pipeline.sweep import Done, Todo, Work

Do = Callable[[list[Todo]], Iterator[Done]]
"""Does images instead of this process; see :func:`pipeline.sweep.sweep`."""


@dataclass(frozen=True)
class Order:
    """What a worker has to know to do images of a stage.

    Attributes:
        name: tells one order from another.
        config: the whole configuration, as plain dictionaries.
        vocabulary: the class names.
        root: the output directory.
        verb: the function of :class:`pipeline.method.Method`.
        folders: path, stage and split of each folder that receives results.
        inputs: the folders that the function is given besides.
        threads: of torch; none leaves it the choice.
        batch_size: images that CLIP looks at together.
    """

    name: str
    config: Mapping[str, Any]
    vocabulary: Vocabulary
    root: Path
    verb: str
    folders: tuple[tuple[Path, str, str], ...]
    inputs: tuple[Path, ...]
    threads: int | None
    batch_size: int


@dataclass(frozen=True)
class ShardDone:
    """What became of a shard.

    Attributes:
        lines: for each folder, the lines of its journal.
        failures: id → reason, of the images that were left out.
    """

    lines: list[list[dict]]
    failures: dict[str, str]


@dataclass
class _Bench:
    """What a worker keeps from shard to shard: its models, and files that are open."""

    name: str
    folders: list[WorkerFolder]
    work: Work


_bench: _Bench | None = None
_method: tuple[str, Method] | None = None


def do_shard(order: Order, images: list[Todo]) -> ShardDone:
    """Does images in a worker; the models are loaded for its first shard.

    Raises:
        UserError: what the user can fix, as a full disk.
    """
    bench = _bench_for(order)
    for folder in bench.folders:
        folder.lines = []
    failures = {}
    try:
        for todo, reason in bench.work.do(images):
            if reason is not None:
                failures[todo.sample.id] = reason
    finally:
        for folder in bench.folders:
            folder.close()
    return ShardDone([folder.lines for folder in bench.folders], failures)


def _bench_for(order: Order) -> _Bench:
    global _bench, _method
    if _bench is None or _bench.name != order.name:
        _bench = None  # lets go of the models of another stage
        if order.threads:
            torch.set_num_threads(order.threads)
        setting = fingerprint(order.config, order.vocabulary.classes)
        if _method is None or _method[0] != setting:
            _method = (setting, Method(order.config, order.vocabulary, Store(order.root)))
        folders = [WorkerFolder(*folder) for folder in order.folders]
        work = getattr(_method[1], order.verb)(*folders, *order.inputs)
        _bench = _Bench(order.name, folders, work)
    return _bench


class Workforce:
    """Who does the images of a stage: this process, or workers, shard by shard."""

    def __init__(self, settings: Mapping[str, Any], workers: int):
        """Starts no worker yet.

        Args:
            settings: ``executor``: its ``name``, how many ``workers``, of how many ``threads``, and
                the ``shard_size``; see configs/executor.
            workers: how many there are unless the settings say it.

        Raises:
            UserError: a number that is none.
        """
        self._settings = settings
        given = {key: settings.get(key) for key in ("workers", "threads", "shard_size")}
        self.size = workers if given["workers"] is None else given["workers"]
        self._shard_size = given["shard_size"]
        for key, value in given.items():
            if value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise UserError(f"executor.{key}={value} is no number: give 1 or more")

    @property
    def is_here(self) -> bool:
        """Whether this process does the images itself."""
        return self._settings["name"] == "local"

    @cached_property
    def _pool(self) -> Pool:
        if self._settings["name"] == "processes":
            return ProcessPool(self.size, self._threads or 1)
        from pipeline.engine.dask_pool import DaskPool

        return DaskPool(self._settings, self.size)

    @property
    def _threads(self) -> int | None:
        if self._settings.get("threads") or self._settings.get("address"):
            return self._settings.get("threads")
        if self._settings.get("cluster"):
            return None  # as many as the batch system gives
        return max(1, (os.cpu_count() or 1) // self.size)

    def doing(
        self,
        method: Method,
        store: Store,
        verb: str,
        folders: Sequence[StageFolder],
        *inputs: Path,
    ) -> Do | None:
        """Returns what does a stage's images in workers; none where this process does them.

        Args:
            method: that of the configuration.
            store: the output directory.
            verb: the method's function that does the images.
            folders: receive the results, locked.
            *inputs: folders that the function is given besides.
        """
        if self.is_here:
            return None
        runtime = {**method.config["runtime"], "workers": 1, "threads": self._threads}
        config = {**method.config, "runtime": runtime}
        about = [str(path) for path in (*(folder.path for folder in folders), *inputs)]
        order = Order(
            name=fingerprint(config, verb, about),
            config=config,
            vocabulary=method.vocabulary,
            root=store.root,
            verb=verb,
            folders=tuple((f.path, f.stage, f.split) for f in folders),
            inputs=inputs,
            threads=self._threads,
            batch_size=method.batches.images,
        )
        return partial(self._do, order, folders)

    def _do(
        self, order: Order, folders: Sequence[StageFolder], images: list[Todo]
    ) -> Iterator[Done]:
        # Batches of a GPU are filled from the images of one shard.
        size = self._shard_size or (4 if order.batch_size == 1 else 16 * order.batch_size)
        shards = [images[start : start + size] for start in range(0, len(images), size)]
        deadly: list[list[Todo]] = []
        yield from self._do_shards(order, folders, shards, deadly)
        # One image of such a shard may be to blame; the others are not to suffer from it.
        singles = [[todo] for shard in deadly for todo in shard]
        deadly.clear()
        yield from self._do_shards(order, folders, singles, deadly)
        for [todo] in deadly:
            yield todo, DIED

    def _do_shards(
        self,
        order: Order,
        folders: Sequence[StageFolder],
        shards: list[list[Todo]],
        deadly: list[list[Todo]],
    ) -> Iterator[Done]:
        by_id = {todo.sample.id: todo for shard in shards for todo in shard}
        portable = ([todo.for_worker() for todo in shard] for shard in shards)
        for shard, done in spread(self._pool, partial(do_shard, order), portable):
            mine = [by_id[todo.sample.id] for todo in shard]
            if isinstance(done, WorkersDied):
                deadly.append(mine)
                continue
            for folder, lines in zip(folders, done.lines):
                for line in lines:
                    folder.adopt(line)
            for todo in mine:
                yield todo, done.failures.get(todo.sample.id)

    def close(self, at_once: bool = False) -> None:
        """Lets the workers go, where there are any."""
        if "_pool" in self.__dict__:
            self._pool.close(at_once)
            del self._pool
