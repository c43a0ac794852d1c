"""``masks=regions``: each region of an image takes the label that its CAMs have on average."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.datasets.regions import Region, read_regions, split_regions, superpixels
from pipeline.engine.stage import Item
from pipeline.errors import ImageError
from pipeline.masks.labels import resized_argmax, shares, stack_background, to_labels
from pipeline.masks.refiner import Given, Labelled, Refiner, labelled
from pipeline.masks.settings import RegionOptions
from pipeline.masks.stage import Masks


class RegionVote(Refiner):
    """Labels images by regions, SLIC's unless they are given."""

    def __init__(self, options: RegionOptions):
        self._options = options

    def __call__(
        self, image: np.ndarray, cams: Cams, regions: Iterable[Region] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels every pixel of an image by the smallest region around it.

        The label of a region is the channel of the largest mean score over all of its pixels, of
        equal ones the first; of regions of equal size the first wins. Pixels in no region are
        labelled by their own scores. The probability is the share of the label's (mean) score.

        The ``regions`` are in the image's full size, and each is read once; none takes SLIC's.
        Shapes and types are those of :class:`~pipeline.masks.refiner.Refiner`.
        """
        import torch

        (height, width), (rows, columns) = cams.size, image.shape[:2]
        # In an image that was not shrunk, each pixel lies inside itself.
        down = (2 * np.arange(height) + 1) * rows // (2 * height)
        right = (2 * np.arange(width) + 1) * columns // (2 * width)
        inside = (down[:, None] * columns + right).ravel()  # the index of each pixel in scores
        if regions is None:
            regions = split_regions(superpixels(image, self._options.slic).ravel()[inside])
        # Files of images without tags are read as well, so that damage is always found.
        scores = stack_background(cams.resized(rows, columns), self._options.beta)
        channels, best = resized_argmax(scores, height, width)
        _, total = resized_argmax(scores.sum(0, keepdims=True), height, width)
        probability = best / np.maximum(total, np.finfo(np.float32).tiny)
        flat, smallest = scores.reshape(len(scores), -1), np.full(inside.size, inside.size + 1)
        for region in filter(np.size, regions):
            means = flat[:, inside[region]].mean(1, dtype=np.float64)
            won = region[smallest[region] > region.size]
            smallest[won], channels.reshape(-1)[won] = region.size, means.argmax()
            probability.reshape(-1)[won] = shares(torch.from_numpy(means)).max()
        has_background = len(scores) > len(cams.classes)
        return to_labels(channels, cams.classes, background=has_background), probability

    def stream(self, images: Iterable[Given]) -> Iterator[tuple[Item, Labelled | ImageError]]:
        """Labels images; their names are items, which give their files of regions, if any."""
        for item, image, cams in images:
            regions = item.regions and read_regions(item.regions, cams.size)
            yield item, labelled(self, image, cams, regions)


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionMasks(Masks):
    """Masks by regions."""

    def load(self, folders: Mapping[str, Path]) -> RegionVote:
        """Builds the refiner."""
        return RegionVote(self.options)
