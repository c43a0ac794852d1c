"""Files of regions: label images, ``<id>.png``, and COCO's run lengths, ``<id>.json``."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.datasets.annotations import naming, refuse_other_size
from pipeline.datasets.rasterise import rasterise
from pipeline.files.images import MODES_OF_16_BITS
from pipeline.files.json_stream import read_element
from pipeline.files.label_images import GREY, PALETTE, decode_png

Region = np.ndarray
"""The pixels of a region: indices into the flattened image, each once."""

SUFFIXES = (".png", ".json")


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
        content = read_element(path)
        for each in content["annotations"] if isinstance(content, Mapping) else content:
            is_record = isinstance(each, Mapping) and "segmentation" in each
            yield np.flatnonzero(rasterise(each["segmentation"] if is_record else each, *size))


def split_regions(numbers: np.ndarray) -> Iterator[Region]:
    """Yields the pixels of each number but 0 in an integer array, the smallest number first."""
    flat = numbers.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order])) + 1
    for region in np.split(order, starts):
        if flat[region[0]] != 0:
            yield region
