"""Regions as pixels: polygons, COCO's run lengths, and those of Label Studio's brush."""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

FIGURES = ("polygon", "oriented_rectangle", "rectangle", "circle")
"""The types of labelme's shapes that have an area, without masks."""

MIN_COORDINATES = 6
"""Of a polygon, which has three corners."""


def rasterise(shape: Sequence | Mapping, height: int, width: int) -> np.ndarray:
    """Returns the pixels of a region, height×width bool, from polygons or run lengths.

    These are COCO's, ``{"size": [height, width], "counts": …}``, as a list or compressed; or those
    of Label Studio's brush, ``{"rle": …}``, a list of bytes. Or they are a mask in base64, of the
    image or, with a corner, of a part of it, ``{"png": …, "corner": [x, y]}``; or one of labelme's
    :data:`FIGURES`, ``{"figure": …, "points": [[x, y], …]}``.

    pycocotools checks neither: it leaves pixels after the last run uninitialised, and polygons far
    outside the image end the process. Raises a ValueError if the runs are not those of all pixels,
    or a corner is far from the image; pycocotools raises many types on other damage.
    """
    if isinstance(shape, Mapping):
        if "png" in shape:
            return _placed(shape["png"], shape["corner"], height, width)
        if "figure" in shape:
            return _drawn(shape["figure"], shape["points"], height, width)
        if "rle" in shape:
            return _brush_strokes(shape["rle"], height * width).reshape(height, width)
        counts = shape["counts"]
        runs = _unpacked(counts) if isinstance(counts, str) else counts
        if [*shape["size"]] != [height, width] or min(runs) < 0 or sum(runs) != height * width:
            raise ValueError(f"runs that are not those of {width}×{height} pixels")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")
    from pycocotools import mask as coco_mask

    polygons = [np.asarray(each) for each in shape]
    if isinstance(shape, str) or any(polygon.ndim != 1 for polygon in polygons):
        raise ValueError("a shape that is not a list of polygons, each a list of coordinates")
    # Fewer than three corners cover nothing, but pycocotools would draw a box.
    if not (polygons := [p.astype(np.float64) for p in polygons if p.size >= MIN_COORDINATES]):
        return np.zeros((height, width), bool)
    for polygon in polygons:
        if polygon.size % 2:
            raise ValueError("a polygon of an odd number of coordinates")
        _refuse_far_corners(polygon, height, width)
    runs = coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in polygons], height, width))
    return coco_mask.decode(runs).view(bool)


def _refuse_far_corners(polygon: np.ndarray, height: int, width: int) -> None:
    # Annotators leave the image by a few pixels. NaN is not below the limit either.
    if not (abs(polygon) < 2 * max(height, width)).all():
        raise ValueError("a corner far from the image")


def _drawn(figure: str, points: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Draws a figure with the pixels on its line, as labelme does."""
    _refuse_far_corners(np.array(points), height, width)
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    if figure == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    elif figure == "rectangle":
        (left, right), (top, bottom) = map(sorted, zip(*points))
        draw.rectangle((left, top, right, bottom), fill=1, outline=1)
    else:
        draw.polygon([*map(tuple, points)], fill=1, outline=1)
    return np.array(picture)


def _unpacked(text: str) -> list[int]:
    """Returns run lengths from COCO's text: 5 bits a character, from the third the differences."""
    runs: list[int] = []
    value = bits = 0
    for code in text.encode("ascii"):
        code -= ord("0")
        if not 0 <= code < 64 or bits > 50:
            raise ValueError("text that does not hold run lengths")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:  # the last character of a number; its fifth bit is the sign
            value -= 1 << bits if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits:
        raise ValueError("text that ends within a number")
    return runs


def _placed(data: str, corner: Sequence[float] | None, height: int, width: int) -> np.ndarray:
    left, top = (round(place) for place in corner or (0, 0))
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(data)), formats=["PNG"])
    except UnidentifiedImageError:
        raise ValueError("a mask that is not a PNG") from None
    with picture as image:
        if not (0 <= top <= height - image.height and 0 <= left <= width - image.width):
            raise ValueError("a mask that leaves the image")
        if corner is None and image.size != (width, height):
            raise ValueError("a mask of another size")
        margins = (top, height - top - image.height), (left, width - left - image.width)
        # Label Studio's masks, of whole images, are transparent where there is nothing.
        is_clear = corner is None and image.has_transparency_data
        values = image.convert("LA").getchannel("A") if is_clear else image.convert("L")
        return np.pad(np.asarray(values) > 0, margins)


def _brush_strokes(data: Sequence[int], pixels: int) -> np.ndarray:
    """Returns which pixels a brush of Label Studio has painted, from its stream of bits.

    It holds RGBA pixels, row by row: the number of values (32 bits), the bits of a value (5), and
    of four lengths (4 each). Then runs follow: a bit that is 1 where one value repeats, 2 bits that
    choose a length, that length, and the values. Widths and lengths are stored less 1. A pixel is
    painted where its alpha exceeds 127.
    """
    bits = np.unpackbits(np.array(data, np.uint8) if data else np.zeros(0, np.uint8))
    at = 0

    def read(width: int, count: int = 1) -> np.ndarray:
        nonlocal at
        end = at + width * count
        if end > len(bits):
            raise ValueError("run lengths that end too early")
        block, at = bits[at:end].reshape(count, width), end
        return block @ (1 << np.arange(width - 1, -1, -1))

    if read(32)[0] != 4 * pixels:
        raise ValueError("run lengths of another size")
    width, *lengths = [int(read(n)[0]) + 1 for n in (5, 4, 4, 4, 4)]
    values, start = np.empty(4 * pixels, np.uint8), 0
    while start < len(values):
        repeats, choice = read(1)[0], int(read(2)[0])
        end = start + int(read(lengths[choice])[0]) + 1
        if end > len(values):
            raise ValueError("run lengths of more than all pixels")
        values[start:end] = read(width, 1 if repeats else end - start)
        start = end
    return values[3::4] > 127
