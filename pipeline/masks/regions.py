"""``masks=regions``: each region of an image takes the label that its CAMs have on average."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cams.cams import Cams
from pipeline.engine.sample import Sample, ids_below
from pipeline.engine.stage import Folders, Item
from pipeline.errors import ImageError, NoEntry
from pipeline.files.fingerprints import fingerprint_file, join_keys
from pipeline.files.text import given_folder, given_path
from pipeline.masks.labels import resized_argmax, shares, stack_background, to_labels
from pipeline.masks.refiner import Given, Labelled, Refiner, labelled
from pipeline.masks.region_files import SUFFIXES, Region, read_regions, split_regions
from pipeline.masks.settings import SLIC, RegionOptions
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
            regions = split_regions(self._superpixels(image).ravel()[inside])
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
        has_background = len(scores) > len(cams.keys)
        return to_labels(channels, cams.keys, background=has_background), probability

    def stream(self, images: Iterable[Given]) -> Iterator[tuple[Item, Labelled | ImageError]]:
        """Labels images; their names are items, which give their files of regions, if any."""
        for item, image, cams in images:
            path = item.given.regions
            regions = path and read_regions(path, cams.size)
            yield item, labelled(self, image, cams, regions)

    def _superpixels(self, image: np.ndarray) -> np.ndarray:
        from skimage.segmentation import slic

        settings = self._options.slic
        return slic(
            image, settings.segments, settings.compactness, sigma=settings.sigma, start_label=1
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionMasks(Masks):
    """Masks by regions. The contents of an image's file of regions are part of its input.

    The key holds the last two names of their folder's path, such as ``SAM/val``, so that regions of
    two methods can be compared, and the same ones have one key on several machines.
    """

    @cached_property
    def _folder(self) -> Path | None:
        """The folder of the regions; none for SLIC's."""
        given = self.options.regions
        return None if given == SLIC else given_path(given, "masks.regions").absolute()

    @property
    def takes_any_image(self) -> bool:
        """Whether images need no files of regions."""
        return self._folder is None

    def check(self) -> None:
        """Refuses a folder of regions that does not exist."""
        super().check()
        if not self.takes_any_image:
            holds = f"<id>.png or <id>.json, or {SLIC}"
            given_folder(self.options.regions, "masks.regions", holds)

    def own_settings(self) -> dict[str, Any]:
        """Returns what masks depend on, except the files."""
        settings = super().own_settings()
        if self._folder is not None:
            del settings["slic"]
            settings["regions"] = f"folder {'/'.join(self._folder.parts[-2:])}"
        return settings

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its file of regions.

        Raises:
            ImageError: the image has two files of regions, or (NoEntry) none.
            UserError: the folder of these files does not exist.
        """
        item = super().item(sample, folders)
        if self._folder is None:
            return item
        paths = [self._folder / f"{sample.id}{suffix}" for suffix in SUFFIXES]
        found = [path for path in paths if path.is_file()]
        if not found:
            self.check()
            known = ids_below(self._folder, *SUFFIXES)
            raise NoEntry(f"has no regions: {paths[0]} is missing", known)
        if len(found) > 1:
            raise ImageError(f"has two files of regions, {paths[0]} and {paths[1]}: remove one")
        key = join_keys(item.input, fingerprint_file(found[0]))
        return replace(item, input=key, given=item.given._replace(regions=found[0]))

    def load(self, inputs: Mapping[str, Path]) -> RegionVote:
        """Builds the refiner."""
        return RegionVote(self.options)
