"""The pass over a split's images that every per-image stage makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.errors import ImageError
from pipeline.progress import track
from pipeline.store import StageFolder

Result = TypeVar("Result")


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
    with track(f"{folder.stage} {folder.split}", len(todo)) as advance:
        for sample, result in compute(todo):
            if isinstance(result, ImageError):
                folder.fail(sample.id, str(result))
                failed += 1
            else:
                save(sample, keys[sample.id], result)
            advance(note=f"{failed} left out" if failed else None)
    return len(todo) - failed


def one_by_one(
    samples: Iterable[Sample],
    read: ImageReader,
    compute: Callable[[Sample, np.ndarray, tuple[int, int]], Result],
) -> Iterator[tuple[Sample, Result | ImageError]]:
    """Yields every sample with what is computed for it, or with why its image cannot be read.

    Args:
        samples: the images.
        read: decodes them.
        compute: receives a sample, its image, perhaps shrunk, and its full height and width.
    """
    for sample in samples:
        try:
            image, size = read(sample)
        except ImageError as error:
            yield sample, error
        else:
            yield sample, compute(sample, image, size)


def folder_is_done(folder: StageFolder) -> Callable[[Sample, str], bool]:
    """Returns the usual test: the folder holds a whole result of this input."""
    return lambda sample, key: folder.is_done(sample.id, key)
