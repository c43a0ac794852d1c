"""Images on their way to a model, decoded before it asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np

from pipeline.engine.pool import prefetch
from pipeline.engine.sample import ImageReader
from pipeline.engine.stage import Item
from pipeline.errors import ImageError, UserError

Size = tuple[int, int]
"""Height and width in pixels."""

Name = tuple[Item, Size]
"""An item and the full size of its image."""


@dataclass(frozen=True)
class Reading:
    """How a stage reads its images.

    Attributes:
        decode: decodes an image.
        threads: the number of threads that decode; a worker has one, as there are several workers.
        prefetch: the number of images that are decoded before the model asks for them.
    """

    decode: ImageReader
    threads: int
    prefetch: int

    def through(
        self,
        items: Iterable[Item],
        model: Callable[[Iterator[tuple[Name, np.ndarray]]], Iterable[tuple[Name, Any]]],
        name: str = "the model",
    ) -> Iterator[tuple[Item, tuple[Any, Size] | ImageError]]:
        """Yields a model's result and the size of each image, or why it has none.

        The model is called once for all images that stand alone, and once for each batch of images
        that are looked at together, with all that can be read of them, in their order.

        Args:
            items: the images.
            model: receives names and images, H×W×3 uint8, perhaps shrunk, and yields names and
                results in any order; an ImageError is the result of an image that it refuses. It is
                called only if an image can be read.
            name: what an error calls the model; it names the images that it was given, too.

        Raises:
            UserError: the model returned nothing for an image.
        """
        for batch, group in groupby(items, lambda item: item.together):
            if batch:
                wanted = {item.sample.id: item for item in group}
                whole = [Item(sample, "") for sample in batch]
                found = self.through(whole, model, name)
                yield from ((wanted[i.sample.id], r) for i, r in found if i.sample.id in wanted)
                continue
            unreadable: list[tuple[Item, ImageError]] = []
            given: dict[str, None] = {}
            images = self._readable(group, unreadable, given)
            if (first := next(images, None)) is not None:
                try:
                    for (item, size), result in model(chain([first], images)):
                        given.pop(item.sample.id, None)
                        while unreadable:
                            yield unreadable.pop(0)
                        yield item, result if isinstance(result, ImageError) else (result, size)
                except Exception as error:
                    error.add_note(f"{name} failed on image {', '.join(given)}")
                    raise
                if given:
                    raise UserError(f"{name} returned nothing for image {', '.join(given)}")
            yield from unreadable

    def _readable(
        self,
        items: Iterable[Item],
        unreadable: list[tuple[Item, ImageError]],
        given: dict[str, None],
    ) -> Iterator[tuple[Name, np.ndarray]]:
        """Yields decoded images, each ``given`` from then on, and lists those without."""
        for item, decoded in prefetch(items, self._try, self.threads, self.prefetch):
            if isinstance(decoded, ImageError):
                unreadable.append((item, decoded))
            else:
                image, size = decoded
                given[item.sample.id] = None
                yield (item, size), image

    def _try(self, item: Item) -> tuple[np.ndarray, Size] | ImageError:
        try:
            return self.decode(item.sample)
        except ImageError as error:
            return error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "threads": 1}
