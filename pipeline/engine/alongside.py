"""A stage computed in processes while the model whose results it reads goes on, as on a GPU."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Semaphore
from typing import Any

from pipeline.engine.pool import Pool, with_notes
from pipeline.engine.progress import note
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Folders, Item, PerImage, item_of
from pipeline.engine.writer import Writer
from pipeline.errors import ImageError

ShardResult = tuple[dict[str, list[dict]], dict[str, str]]
"""The journal entries for each folder, by name; and id → reason of skipped images."""

_WAITING = 2
"""Images for each process that are handed on and not done, so that none of them waits for one."""


class Alongside:
    """Computes a stage image by image, as soon as the results that it reads are stored.

    The turn of the stage itself comes later. It computes what is missing then, also when a process
    has died, and finds out why: of an image whose result fails here, nothing is recorded.

    Args:
        stage: reads no other results than those ``before``.
        before: those of the stages before it, by name.
        writer: writes its own, and holds the lock.
        pool: the processes.
        work: computes some items in one of them.
        images: the number of images of the split.
    """

    def __init__(
        self,
        stage: PerImage,
        before: Folders,
        writer: Writer,
        pool: Pool,
        work: Callable[[list[Item]], ShardResult],
        images: int,
    ):
        self.stage = stage
        self._before, self._writer = before, writer
        self._pool, self._work = pool, partial(with_notes, work)
        self._free = Semaphore(_WAITING * pool.size)
        self._under_way: deque[Future[Any]] = deque()
        self._is_sound, self._images = True, images

    def hand_on(self, sample: Sample) -> None:
        """Has the result of an image computed, unless it exists; waits while too many wait."""
        has_inputs = all(sample.id in results.entries for results in self._before.values())
        if not (self._is_sound and has_inputs):
            return
        try:
            item = item_of(self.stage, sample, self._before, {})
        except (ImageError, OSError):
            return
        if any(self._writer.results.candidates(sample.id, item.inputs)):
            return
        if not self._under_way and not self._writer.computed:
            self._writer.begin(self._images, aside=True)
        self._free.acquire()
        future = self._pool.submit(self._work, [item])
        future.add_done_callback(lambda _: self._free.release())
        self._under_way.append(future)
        while self._under_way and self._under_way[0].done():
            self._take()

    def finish(self) -> int:
        """Waits for all results, and returns how many there are."""
        while self._under_way:
            self._take()
        return self._writer.computed

    def _take(self) -> None:
        """Waits for what a process computes and stores it; this thread alone writes the journal."""
        future = self._under_way.popleft()
        if future.exception() is not None:
            self._is_sound = False
            return
        (entries, _), noted = future.result()
        note(*noted)
        for line in entries[self.stage.name]:
            self._writer.adopt(line)
