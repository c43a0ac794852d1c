"""Files of regions: label images, ``<id>.png``, and COCO's run lengths, ``<id>.json``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.datasets.rasterise import rasterise
from pipeline.errors import ImageError, UserError
from pipeline.files.images import MODES_OF_16_BITS
from pipeline.files.label_images import GREY, PALETTE, decode_png
from pipeline.files.text import read_text

Region = np.ndarray
"""The pixels of a region: indices into the flattened image, each once."""

SUFFIXES = (".png", ".json")


def read_regions(path: Path, size: tuple[int, int]) -> Iterator[Region]:
    """Yields the regions of an image from its file; those of a JSON file may overlap.

    A PNG, grey or with a palette, holds a number for each pixel; 0 lies in no region. A JSON file
    is a list, or an object with the list as ``annotations``, of COCO's run lengths, polygons, or
    objects that have one of them as ``segmentation``: SAM writes both forms. The ``size`` of the
    image is its height and width.

    Raises:
        ImageError: the file is damaged, or of another size.
    """
    height, width = size
    try:
        if path.suffix == ".png":
            numbers = decode_png(path, (PALETTE, GREY, *MODES_OF_16_BITS)).values
            if numbers.shape != size:
                found = f"{numbers.shape[1]}×{numbers.shape[0]}"
                raise ImageError(f"has {found} pixels, and the image {width}×{height}")
            yield from split_regions(numbers)
            return
        content = json.loads(read_text(path, str(path), "replace it"))
        for each in content["annotations"] if isinstance(content, Mapping) else content:
            is_record = isinstance(each, Mapping) and "segmentation" in each
            shape = each["segmentation"] if is_record else each
            yield np.flatnonzero(rasterise(shape, height, width))
    except UserError as error:
        raise ImageError(f"its regions cannot be used: {error}") from error
    except ImageError as error:
        raise ImageError(f"its regions cannot be used: {path} {error}") from error
    except Exception as error:  # damaged JSON and shapes raise nearly anything
        raise ImageError(
            f"its regions cannot be used: {path} is damaged, not of {width}×{height} pixels, or not"
            f" a list of COCO's run lengths ({type(error).__name__})"
        ) from error


def split_regions(numbers: np.ndarray) -> Iterator[Region]:
    """Yields the pixels of each number but 0 in an integer array, the smallest number first."""
    flat = numbers.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order])) + 1
    for region in np.split(order, starts):
        if flat[region[0]] != 0:
            yield region
