"""Executors: this process, processes on this machine, or the workers of a cluster."""

import importlib
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from pipeline.configuration.registry import MODELS, methods
from pipeline.engine.alongside import Alongside, ShardResult
from pipeline.engine.executors import ExecutorSettings, WorkerSettings
from pipeline.engine.pool import Pool, ProcessPool, prefetch, spread
from pipeline.engine.progress import say
from pipeline.engine.records import Inputs, write_result
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.stage import Decoded, Folders, Item, Outputs, PerImage
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError, UserError, refusing_exit
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.journal import Journal, part_path, without_collection

Done = Iterator[tuple[Sample, str | None]]
"""Images, each with the reason why it was skipped; none where its result is stored."""

Needs = Mapping[str, Path]
"""The folders that a stage reads, by name."""

ToLoad = tuple[PerImage, Needs, Mapping[str, Path], Inputs]
"""The arguments of :func:`_load`."""

Places = Mapping[str, tuple[Path, str]]
"""The path and the own key of each folder that receives results, by the name of its stage."""

_MAX_UNWRITTEN = 4

_SHARD, _SHARD_BATCHES = 4, 16
"""Images that a worker receives at a time; or batches, of a model that takes several images."""


def compute_here(
    stage: PerImage,
    model: Callable[[], Any],
    places: Places,
    adopt: Callable[[str, dict[str, Any]], None],
    items: Sequence[Item],
) -> Done:
    """Computes results in this process; a thread writes files as the model goes on.

    ``model`` returns what the stage loads, and ``places`` are of its own folder and its rider's;
    ``adopt`` stores an entry in that of a name.
    """

    def write(computed: tuple[Item, Outputs | ImageError]) -> str | None:
        item, outputs = computed
        if isinstance(outputs, ImageError):
            return str(outputs)
        for name, (path, own_key) in places.items():
            if (output := outputs.get(name)) is not None:
                files = {k: data() if callable(data) else data for k, data in output.files.items()}
                result = path, own_key, item.sample.id, output.inputs or item.inputs, files
                adopt(name, write_result(*result, **output.values, machine=stage.machine))
        return None

    def compute(images: Decoded) -> Iterable[tuple[Item, Outputs | ImageError]]:
        item, image = next(images)
        if item.is_manual:
            return [(item, stage.draw(item))]
        return stage.compute(chain([(item, image)], images), model)

    reader = stage.reader if stage.reads_images else None
    computed = go_through(items, reader, compute, stage.chosen)
    for (item, _), reason in prefetch(computed, write, 1, _MAX_UNWRITTEN, at_once=True):
        yield item.sample, reason


def go_through(
    items: Iterable[Item],
    reader: ImageReader | None,
    compute: Callable[[Decoded], Iterable[tuple[Item, Any]]],
    name: str,
) -> Iterator[tuple[Item, Any]]:
    """Yields what is computed of images, or the ImageError of one that cannot be read.

    All images that stand alone are computed in one call, and those that depend on each other in
    another; only if one of them can be read.

    Args:
        items: the images.
        reader: decodes them, ahead of the computation; none gives items alone.
        compute: yields a result for each item that it receives, in any order.
        name: what an error calls it; it names the images that it was given, too.

    Raises:
        UserError: it returned nothing for an image.
    """

    decode, threads, ahead = (lambda _: (None, None)), 1, 1
    if reader is not None:
        decode, threads, ahead = (lambda item: reader(item.sample)), reader.threads, reader.prefetch

    def images_of(items: Iterable[Item]) -> Decoded:
        for item, decoded in prefetch(items, decode, threads, ahead, caught=(ImageError,)):
            if isinstance(decoded, ImageError):
                unreadable.append((item, decoded))
            else:
                image, size = decoded
                given[item.sample.id] = None
                yield replace(item, size=size), image

    for _, group in groupby(items, lambda item: item.computed_with):
        unreadable: list[tuple[Item, ImageError]] = []
        given: dict[str, None] = {}
        images = images_of(group)
        if (first := next(images, None)) is not None:
            try:
                with refusing_exit(name):
                    for item, result in compute(chain([first], images)):
                        given.pop(item.sample.id, None)
                        while unreadable:
                            yield unreadable.pop(0)
                        yield item, result
            except Exception as error:
                error.add_note(f"{name} failed on image {', '.join(given)}")
                raise
            if given:
                raise UserError(f"{name} returned nothing for image {', '.join(given)}")
        yield from unreadable


def _load(stage: PerImage, folders: Needs, files: Mapping[str, Path], learned: Inputs) -> object:
    """Loads a stage's models; refuses files that are not those that were ``learned``."""
    say("loading the model")
    with without_collection():  # while libraries are imported
        model = stage.load(folders)
    try:
        is_as_scanned = {name: fingerprint_file(files[name]) for name in files} == learned
    except OSError:
        is_as_scanned = False
    if not is_as_scanned:
        raise UserError(
            f"another run replaced what stage={stage.command} loads: run the same command again,"
            " finished results are kept"
        )
    say("first batch")
    return model


class Executor:
    """Computes stages as ``executor`` and ``runtime.workers`` say.

    Workers compute shard by shard; this process alone writes the journals.
    """

    def __init__(self, settings: ExecutorSettings, workers: int, *, one_pass: bool = False):
        """Starts no worker yet; ``workers`` is their number unless the settings say it.

        With ``one_pass``, processes compute masks while a model computes the CAMs of other images.
        """
        self._settings, self._one_pass = settings, one_pass
        self._size = getattr(settings, "workers", None) or workers
        self._pool: Pool | None = None

    def compute(
        self, stage: PerImage, needs: Needs, writers: Mapping[str, Writer], items: Sequence[Item]
    ) -> Done:
        """Computes and stores results, wherever the stage is to be computed.

        The ``writers`` are the stage's own and its rider's, by name.
        """
        settings, threads, shard_size = self._settings, None, 1
        files = stage.loaded(needs) if stage.uses else {}  # which are the same for all items
        places = {name: (each.path, each.results.own_key) for name, each in writers.items()}
        to_load = stage, needs, files, {name: items[0].inputs.get(name) for name in files}
        if isinstance(settings, WorkerSettings):
            self._pool = self._pool or settings.start(self._size)
            threads = settings.threads_of(self._size)
            images = stage.batch_size or 1
            shard_size = _SHARD if images == 1 else _SHARD_BATCHES * images
        else:
            size = min(self._size, len(items)) if stage.batch_size is None else 1
            if size == 1:
                model = cache(partial(_load, *to_load))
                return compute_here(stage, model, places, lambda n, e: writers[n].adopt(e), items)
            self._pool = ProcessPool(size)
        say("waiting for workers")
        shards: list[Sequence[Item]] = []
        for depends, group in groupby(items, lambda item: item.computed_with):
            members = [*group]
            step = len(members) if depends else shard_size
            shards += [members[start : start + step] for start in range(0, len(members), step)]
        return _compute_in(self._pool, _work_of(to_load, places, threads), writers, shards)

    def go_alongside(
        self,
        stage: PerImage,
        needs: Needs,
        before: Folders,
        writer: Writer,
        model: PerImage,
        images: int,
    ) -> Alongside | None:
        """Returns what computes a stage alongside the ``model``; none if that is not wanted.

        It reads the results ``before`` it; ``images`` is the number of images of the split.
        """
        runs_here = model.batch_size is not None and not isinstance(self._settings, WorkerSettings)
        if not (self._one_pass and runs_here and stage.batch_size is None):
            return None
        self._pool = ProcessPool(self._size)
        work = _work_of((stage, needs, {}, {}), {stage.name: (writer.path, stage.own_key)}, None)
        return Alongside(stage, before, writer, self._pool, work, images)

    def close(self, at_once: bool = False) -> None:
        """Ends the workers, if there are any."""
        if self._pool is not None:
            self._pool.close(at_once)


def _work_of(to_load: ToLoad, places: Places, threads: int | None) -> Callable[..., ShardResult]:
    """Returns :func:`compute_shard` of a stage."""
    arguments = pickle.dumps(to_load)
    found = (method.settings.__module__ for method in methods())
    modules = [*dict.fromkeys([*found, *(model.module for model in MODELS.values())])]
    return partial(compute_shard, pickle.dumps((modules, arguments)), places, threads)


def _compute_in(
    pool: Pool,
    work: Callable[[Sequence[Item]], ShardResult],
    writers: Mapping[str, Writer],
    shards: Sequence[Sequence[Item]],
) -> Done:
    """Has shards computed by workers; an image whose workers die is skipped."""
    deadly: list[list[Item]] = []
    for shard, done in spread(pool, work, shards):
        if not isinstance(done, ImageError):
            entries, failures = done
            for name, lines in entries.items():
                for line in lines:
                    writers[name].adopt(line)
            for item in shard:
                yield item.sample, failures.get(item.sample.id)
        elif len(shard) == 1:
            yield shard[0].sample, str(done)
        else:
            deadly += [[item] for item in shard]
    # A single image of such a shard may be the cause; the others must not suffer from it.
    if deadly:
        yield from _compute_in(pool, work, writers, deadly)


def compute_shard(
    pickled: bytes, places: Places, threads: int | None, items: Sequence[Item]
) -> ShardResult:
    """Computes images in a worker with so many ``threads`` of torch; none leaves them to torch.

    ``pickled`` holds the modules that register methods and models, and, pickled, the arguments of
    :func:`_load`. Another process holds the locks of the ``places``; the journals are this
    worker's, which outlive a killed run.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as in pipeline.commands
    if threads:
        import torch

        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
    journals = {name: Journal(part_path(path)) for name, (path, _) in places.items()}
    entries: dict[str, list[dict]] = {name: [] for name in places}

    def adopt(name: str, entry: dict[str, Any]) -> None:
        journals[name].append(entry)
        entries[name].append(entry)

    try:
        done = compute_here(*_resident(pickled), places, adopt, items)
        failures = {sample.id: reason for sample, reason in done if reason is not None}
    finally:
        for journal in journals.values():
            journal.close()
    return entries, failures


@lru_cache(maxsize=1)
def _resident(pickled: bytes) -> tuple[PerImage, Callable[[], Any]]:
    """Returns a stage with its model, which stays from shard to shard.

    What was learned tells apart stages that differ in a file alone, such as new weights.
    """
    modules, arguments = pickle.loads(pickled)  # of the process that asks for results
    for name in modules:
        with suppress(ImportError):  # a plug-in that this stage may not need
            importlib.import_module(name)
    try:
        found = pickle.loads(arguments)
    except ModuleNotFoundError as error:
        raise UserError(
            f"a worker cannot import {error.name}: install the plug-in there, or add its folder to"
            " the worker's PYTHONPATH"
        ) from error
    return found[0], cache(partial(_load, *found))
