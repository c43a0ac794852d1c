"""Regions of images: SLIC's, or of files, ``<id>.png`` or ``<id>.json`` with run lengths."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.configuration.settings import setting
from pipeline.datasets.annotations import naming, refuse_other_size
from pipeline.datasets.rasterise import rasterise
from pipeline.files.images import MODES_OF_16_BITS
from pipeline.files.label_images import GREY, PALETTE, decode_png
from pipeline.files.text import given_path, load_json

Region = np.ndarray
"""The pixels of a region: indices into the flattened image, each once."""

SUFFIXES = (".png", ".json")

SLIC = "slic"


@dataclass(kw_only=True)
class SlicOptions:
    """SLIC's constants, as :func:`skimage.segmentation.slic` takes them.

    Attributes:
        segments: the approximate number of superpixels of an image.
        compactness: the weight of distances against colours; higher ones give squarer superpixels.
        sigma: the standard deviation, in pixels, of the blur before. Without it, noise breaks up
            the superpixels, and most of them are then merged.
    """

    segments: int = setting(500, at_least=1, at_most=1_000_000)
    compactness: float = setting(10, above=0, at_most=1e6)
    sigma: float = setting(1, at_least=0, at_most=1000)


@dataclass(kw_only=True)
class RegionSettings:
    """The settings of methods that read regions.

    Attributes:
        regions: a folder with the regions of every image, ``<id>.png`` or ``<id>.json``, such as
            SAM's; or ``slic`` for superpixels that are computed here.
        slic: SLIC's constants.
    """

    regions: str = SLIC
    slic: SlicOptions = setting(SlicOptions())

    def region_folder(self, key: str) -> Path | None:
        """Returns the folder of the regions; none for SLIC's. ``key`` is the setting's."""
        return None if self.regions == SLIC else given_path(self.regions, key).absolute()


def superpixels(image: np.ndarray, options: SlicOptions) -> np.ndarray:
    """Returns the number of each pixel's superpixel by SLIC, from 1: H×W int64."""
    from skimage.segmentation import slic

    return slic(image, options.segments, options.compactness, sigma=options.sigma, start_label=1)


def read_region_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Returns the number of each pixel's region from a file, H×W int64; 0 lies in none.

    Regions are numbered from 1: those of a PNG in their order, those of JSON in the order of their
    size; where several overlap, the largest wins, of equally large ones the last. Arguments and
    errors as of :func:`read_regions`.
    """
    numbers = np.zeros(size[0] * size[1], np.int64)
    regions = read_regions(path, size)
    ordered = regions if path.suffix == ".png" else sorted(regions, key=np.size)
    for number, region in enumerate(ordered, 1):
        numbers[region] = number
    return numbers.reshape(size)


def read_regions(path: Path, size: tuple[int, int]) -> Iterator[Region]:
    """Yields the regions of an image from its file; those of a JSON file may overlap.

    A PNG, grey or with a palette, holds a number for each pixel; 0 lies in no region. A JSON file
    is a list, or an object with the list as ``annotations``, of COCO's run lengths, polygons, or
    objects that have one of them as ``segmentation``: SAM writes both forms. The ``size`` of the
    image is its height and width. Raises an ImageError if the file is damaged, or of another size.
    """
    with naming(path, "regions"):
        if path.suffix == ".png":
            numbers = decode_png(path, (PALETTE, GREY, *MODES_OF_16_BITS)).values
            refuse_other_size(numbers.shape, size)
            yield from split_regions(numbers)
            return
        content = load_json(path)
        for each in content["annotations"] if isinstance(content, Mapping) else content:
            is_record = isinstance(each, Mapping) and "segmentation" in each
            yield np.flatnonzero(rasterise(each["segmentation"] if is_record else each, *size))


def split_regions(numbers: np.ndarray) -> Iterator[Region]:
    """Yields the pixels of each number but 0 in an integer array, the smallest number first."""
    flat = numbers.ravel()
    order = np.argsort(flat, kind="stable")
    for region in np.split(order, np.flatnonzero(np.diff(flat[order])) + 1):
        if flat[region[0]] != 0:
            yield region
