"""The pass over a split's images that every per-image stage makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder, StageFolder
from pipeline.engine.prefetch import prefetch
from pipeline.engine.progress import track
from pipeline.errors import ImageError

Result = TypeVar("Result")

Images = Iterator[tuple[Sample, np.ndarray]]
"""Samples with their images, H×W×3 uint8."""


@dataclass(frozen=True)
class Todo:
    """An image that a stage has to do.

    Attributes:
        sample: the image.
        key: the fingerprint of what its result is made from.
        given: what the stages before found about it, where that is needed.
    """

    sample: Sample
    key: str
    given: Any = None

    def for_worker(self) -> Todo:
        """Returns the same without ground truth, which no result is made from, and can be sent."""
        return replace(self, sample=replace(self.sample, mask=None, labels=None))


Done = tuple[Todo, str | None]
"""An image, and why there is no result of it; none where there is one."""


@dataclass(frozen=True)
class Work(Generic[Result]):
    """How a stage does images, in whatever process.

    Attributes:
        folders: what receives the results, the stage's own folder first.
        compute: yields a result, or why there is none, for every image that it is given, in any
            order.
        save: stores an image's result.
        most_unwritten: results that wait for the disk while the next are computed.
    """

    folders: Sequence[ResultFolder]
    compute: Callable[[list[Todo]], Iterable[tuple[Todo, Result | ImageError]]]
    save: Callable[[Todo, Result], None]
    most_unwritten: int = 1

    def do(self, images: list[Todo]) -> Iterator[Done]:
        """Computes and stores results; files are written behind the model, one after the other.

        Yields:
            Each image when its result is stored, or when it is clear that there is none.
        """
        writing: deque[tuple[Todo, Future[None]]] = deque()
        with ThreadPoolExecutor(1) as writer:
            for todo, result in self.compute(images):
                if isinstance(result, ImageError):
                    yield todo, str(result)
                    continue
                writing.append((todo, writer.submit(self.save, todo, result)))
                while len(writing) > self.most_unwritten or (writing and writing[0][1].done()):
                    written, future = writing.popleft()
                    future.result()
                    yield written, None
            for written, future in writing:
                future.result()
                yield written, None


def sweep(
    samples: Sequence[Sample],
    work: Work[Any],
    *,
    input_key: Callable[[Sample], str],
    given: Callable[[Sample], Any] = lambda sample: None,
    is_done: Callable[[Sample, str], bool] | None = None,
    do: Callable[[list[Todo]], Iterable[Done]] | None = None,
) -> int:
    """Computes what is not there yet, image by image, and records what has to be left out.

    Args:
        samples: the images.
        work: how they are done; the first of its folders is a :class:`StageFolder`, locked.
        input_key: returns the fingerprint of what an image's result is made from.
        given: returns what the work has to know of an image.
        is_done: tells whether an image's result is there; by default the folder does.
        do: does the images instead of this process.

    Returns:
        The number of images that were computed, without those that had to be left out.
    """
    folder: StageFolder = work.folders[0]
    is_done = is_done or (lambda sample, key: folder.is_done(sample.id, key))
    images = []
    for sample in samples:
        try:
            key = input_key(sample)
            if not is_done(sample, key):
                images.append(Todo(sample, key, given(sample)))
        except ImageError as error:
            folder.fail(sample.id, str(error))
        except (OSError, ValueError) as error:  # the latter for what can be no file's name
            reason = getattr(error, "strerror", None) or error
            folder.fail(sample.id, f"cannot be read: {reason}")
    if not images:
        return 0
    for each in work.folders:
        each.begin(len(samples))
    failed = 0
    with track(f"{folder.stage} {folder.split}", len(images)) as advance:
        for todo, reason in (do or work.do)(images):
            if reason is not None:
                folder.fail(todo.sample.id, reason)
                failed += 1
            advance(note=f"{failed} left out" if failed else None)
    return len(images) - failed


def by_sample(
    images: Iterable[Todo], results: Callable[[Iterator[Sample]], Iterable[tuple[Sample, Result]]]
) -> Iterator[tuple[Todo, Result]]:
    """Has results computed from samples, and yields them with the images that they are of."""
    under_way: dict[str, Todo] = {}

    def samples() -> Iterator[Sample]:
        for todo in images:
            under_way[todo.sample.id] = todo
            yield todo.sample

    for sample, result in results(samples()):
        yield under_way.pop(sample.id), result


def read_through(
    samples: Iterable[Sample],
    read: ImageReader,
    model: Callable[[Images], Iterable[tuple[Sample, Result]]],
    most_ahead: int,
    workers: int = 1,
) -> Iterator[tuple[Sample, tuple[Result, tuple[int, int]] | ImageError]]:
    """Decodes images ahead of a model, and yields what it makes of each or why there is nothing.

    Args:
        samples: the images.
        read: decodes them.
        model: receives samples and images, perhaps shrunk, and yields results in any order; called
            only when there is an image that can be read.
        most_ahead: images that are decoded ahead.
        workers: threads that decode.

    Yields:
        A sample, its result, and its full height and width.
    """
    unreadable: list[tuple[Sample, ImageError]] = []
    sizes: dict[str, tuple[int, int]] = {}

    def try_read(sample: Sample) -> tuple[np.ndarray, tuple[int, int]] | ImageError:
        try:
            return read(sample)
        except ImageError as error:
            return error

    def readable() -> Images:
        for sample, found in prefetch(samples, try_read, workers, most_ahead):
            if isinstance(found, ImageError):
                unreadable.append((sample, found))
            else:
                image, sizes[sample.id] = found
                yield sample, image

    images = readable()
    if (first := next(images, None)) is not None:
        for sample, result in model(chain([first], images)):
            while unreadable:
                yield unreadable.pop(0)
            yield sample, (result, sizes.pop(sample.id))
    yield from unreadable
