"""The pass over a split's images that every per-image stage makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import numpy as np

from pipeline.batches import ahead
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError
from pipeline.progress import track
from pipeline.store import StageFolder

Result = TypeVar("Result")

Images = Iterator[tuple[Sample, np.ndarray]]
"""Samples with their images, H×W×3 uint8."""

_MOST_UNWRITTEN = 8
"""Results that wait for the disk, which is what a kill can cost beside what is computed."""


def sweep(
    samples: Sequence[Sample],
    folder: StageFolder,
    *,
    input_key: Callable[[Sample], str],
    compute: Callable[[list[Sample]], Iterable[tuple[Sample, Result | ImageError]]],
    save: Callable[[Sample, str, Result], None],
    is_done: Callable[[Sample, str], bool] | None = None,
) -> int:
    """Computes what is not there yet, image by image, and records what has to be left out.

    Args:
        samples: the images.
        folder: where the results go; its lock is held.
        input_key: returns the fingerprint of what an image's result is made from.
        compute: yields a result, or why there is none, for every image that it is given.
        save: stores an image's result made from an input.
        is_done: tells whether an image's result is there; by default the folder does.

    Returns:
        The number of images that were computed, without those that had to be left out.
    """
    keys: dict[str, str] = {}
    todo = []
    for sample in samples:
        try:
            keys[sample.id] = input_key(sample)
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            folder.fail(sample.id, f"cannot be read: {reason}")
            continue
        if not (is_done or folder_is_done(folder))(sample, keys[sample.id]):
            todo.append(sample)
    if not todo:
        return 0
    failed = 0
    writing: deque[Future[None]] = deque()
    # Files are written behind the model, one after the other.
    with (
        ThreadPoolExecutor(1) as writer,
        track(f"{folder.stage} {folder.split}", len(todo)) as advance,
    ):
        for sample, result in compute(todo):
            if isinstance(result, ImageError):
                folder.fail(sample.id, str(result))
                failed += 1
            else:
                writing.append(writer.submit(save, sample, keys[sample.id], result))
                if len(writing) > _MOST_UNWRITTEN:
                    writing.popleft().result()
            advance(note=f"{failed} left out" if failed else None)
        for written in writing:
            written.result()
    return len(todo) - failed


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
        for sample, found in ahead(samples, try_read, workers, most_ahead):
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


def folder_is_done(folder: StageFolder) -> Callable[[Sample, str], bool]:
    """Returns the usual test: the folder holds a whole result of this input."""
    return lambda sample, key: folder.is_done(sample.id, key)
