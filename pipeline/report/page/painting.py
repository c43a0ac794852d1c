"""Overlays of labels and CAMs on photographs, the layers of a page, and legends of their colours.

Layers are transparent where they show nothing: one photograph serves all, at any opacity.
"""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

from pipeline.files.images import encode, shrunk_size
from pipeline.files.label_images import IGNORE

HEAT = colormaps["inferno"]
"""The colours of class activation maps, from 0 to 1."""

INK, WHITE, GREY = (30, 30, 30), (255, 255, 255), (150, 150, 150)
Colour = Sequence[int]

SAME, MISSED, EXTRA, CONFUSED = range(4)
"""Pixels of a mask against a reference: equal labels, an object in the reference alone, an object
in the mask alone, or objects of different classes."""

DIFFERENCE_COLOURS = {MISSED: (41, 121, 255), EXTRA: (255, 143, 0), CONFUSED: (214, 51, 156)}
"""Distinct for colour-blind readers too; each kind also has its own hatching."""

_FILL = 168 / 255  # opacity of regions
_HATCH = 6  # pixels from line to line
_MIN_SIDE = 480  # pixels of the longer side; smaller photographs are enlarged
_MIN_TEXT = 14  # pixels
_HEAT_SIDE = 200  # pixels; CAMs are smooth, so that larger ones show no more
PHOTOGRAPH_QUALITY, _HEAT_QUALITY = 80, 70
_EFFORT = 0  # of lossless compression, up to 100; more takes twice the time and saves 1%
_PLACE_SIDE = 96  # pixels of the labels in which places for names are sought
_MIN_NAMED = 0.005  # of the pixels
_NAME_SIZE, _NAME_LINE, _NAME_PADDING = 0.058, 1.35, 0.8
"""The largest text of names in picture widths; its line and padding in its size: see page.css."""


def drawing_colours(palette: Sequence[Colour]) -> list[Colour]:
    """Returns a palette with pink for grey, such as VOC's label 7: photographs may be grey."""
    return [(255, c[1], 255) if k and len({*c}) == 1 else c for k, c in enumerate(palette)]


def paint_labels(
    labels: np.ndarray, palette: Sequence[Colour], opacity: float = _FILL, line: int = 0
) -> np.ndarray:
    """Paints labels, h×w uint8, in their colours: h×w×4 uint8, with the opacity in the last plane.

    See :func:`drawing_colours`. The background is transparent, and the ignore index hatched. A
    white line lies outside the regions: without it a dark colour is lost on a dark photograph.
    ``opacity`` is that of the regions, in [0, 1]; their edges, ``line`` pixels wide, are opaque.
    """
    colours = np.zeros((IGNORE + 1, 4), np.uint8)
    colours[1 : len(palette), :3] = drawing_colours(palette)[1:]
    colours[1 : len(palette), 3] = round(255 * opacity)
    layer = colours[labels]
    regions = np.where(labels == IGNORE, 0, labels)
    if line:
        side = 2 * line + 1
        edges = maximum_filter(labels, side) != minimum_filter(labels, side)
        layer[(regions > 0) & edges, 3] = 255
    outside = maximum_filter(regions, 2 * max(1, line // 2) + 1) > 0
    ignored = (labels == IGNORE) & _hatching(labels.shape)
    layer[(labels == 0) & outside | ignored] = 255
    return layer


def _hatching(shape: tuple[int, int], rising: bool = False) -> np.ndarray:
    """Returns thin diagonal lines: h×w bool."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows + columns if rising else rows - columns) % _HATCH == 0


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes labels, uint8, to height×width (nearest neighbour)."""
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def overlay_labels(
    image: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Colour],
    opacity: float = _FILL,
    line: int = 0,
) -> np.ndarray:
    """Paints labels, resized, over a photograph, h×w×3 uint8; a ValueError if one has no colour."""
    if labels.max(initial=0, where=labels != IGNORE) >= len(palette):
        raise ValueError(f"labels {np.unique(labels).tolist()} for {len(palette)} names")
    layer = paint_labels(resize_labels(labels, *image.shape[:2]), palette, opacity, line)
    picture, layer = Image.fromarray(image), Image.fromarray(layer)
    picture.paste(layer, mask=layer)
    return np.asarray(picture)


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    palette: Sequence[Colour],
    opacity: float = 0.5,
) -> np.ndarray:
    """Tints and outlines the regions of a photograph, with a legend below it: H'×W'×3 uint8.

    The background keeps the photograph's colours. The legend names the labels that occur, the
    largest first, each with its share of the pixels, and may be wider than the photograph.

    Args:
        image: H×W×3 uint8, RGB; enlarged by a whole number if it is below 480 pixels.
        labels: h×w uint8; resized to the image.
        class_names: n+1 names, the background's first.
        palette: n+1 colours, RGB in [0, 255].
        opacity: of the tint in [0, 1]; outlines are opaque.

    Raises:
        ValueError: a label has no name, or the numbers of colours and names differ.
    """
    shares = label_shares(labels)
    if len(class_names) != len(palette):
        raise ValueError(f"{len(palette)} colours for {len(class_names)} names")
    factor = max(1, math.ceil(_MIN_SIDE / max(image.shape[:2])))
    photograph = np.asarray(ImageOps.scale(Image.fromarray(image), factor))
    line = max(1, round(max(photograph.shape[:2]) / 500))
    painted = Image.fromarray(overlay_labels(photograph, labels, palette, opacity, line))
    text = max(_MIN_TEXT, round(min(max(painted.size) / 45, painted.width / 22)))
    names = {**dict(enumerate(class_names)), IGNORE: "ignored"}
    colours = {**dict(enumerate(drawing_colours(palette))), 0: None, IGNORE: WHITE}
    legend = [(f"{names[k]} {percent_of_pixels(share)}", colours[k]) for k, share in shares.items()]
    return np.asarray(add_legend(painted, legend, text))


def add_legend(
    picture: Image.Image, entries: Sequence[tuple[str, Colour | None]], text: int
) -> Image.Image:
    """Returns an RGB picture with a legend below it: words, each with a box of its colour.

    A crossed box stands for no colour. ``text`` is the height of the text in pixels.
    """
    font = load_font(text)
    gap, row, box = round(text * 0.6), round(text * 1.8), round(text * 0.95)
    lengths = [math.ceil(box + gap + font.getlength(words) + 2 * gap) for words, _ in entries]
    width = max(picture.width, gap + max(lengths, default=0))
    corners, left, top = [], gap, picture.height + gap
    for length in lengths:
        if left > gap and left + length > width:
            left, top = gap, top + row
        corners.append((left, top))
        left += length
    sheet = Image.new("RGB", (width, top + row + gap // 2), WHITE)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    pen, line = ImageDraw.Draw(sheet), max(1, text // 14)
    for (left, top), (words, colour) in zip(corners, entries):
        upper = top + (row - box) // 2
        right, lower = left + box, upper + box
        pen.rectangle((left, upper, right, lower), colour and tuple(colour), GREY, line)
        if colour is None:
            pen.line((left, lower, right, upper), GREY, line)
        pen.text((right + gap, top + row // 2), words, INK, font, anchor="lm")
    return sheet


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Returns a font of a size in pixels; Pillow's own has only Latin letters."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def label_shares(labels: np.ndarray) -> dict[int, float]:
    """Returns label → its share of the pixels, the largest first and the background last."""
    shares = np.bincount(labels.ravel(), minlength=IGNORE + 1) / labels.size
    order = sorted(np.argsort(-shares, kind="stable").tolist(), key=lambda label: label == 0)
    return {label: shares[label] for label in order if shares[label]}


def percent_of_pixels(share: float) -> str:
    """Returns a share in percent with one decimal; what is above 0 is never shown as 0."""
    number = "<0.1" if 0 < share < 0.001 else f"{100 * share:.1f}"
    return f"{number}\N{NO-BREAK SPACE}%"


# Layers of a page


def embed(pixels: np.ndarray, quality: int | None = None) -> str:
    """Returns a picture, RGB or RGBA in uint8, as a ``data:`` address; lossless without quality."""
    options = {"lossless": True, "quality": _EFFORT} if quality is None else {"quality": quality}
    data = encode(pixels, "WEBP", method=4, **options)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def encode_heat(cam: np.ndarray) -> str:
    """Returns a CAM, h×w in [0, 1], as heat that is transparent where it is cold."""
    size = shrunk_size(cam, _HEAT_SIDE)[::-1]
    small = Image.fromarray(cam.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(small), 0, 1)
    pixels = HEAT(values, bytes=True)
    pixels[..., 3] = np.rint(225 * np.clip(2 * values, 0, 1))
    return embed(pixels, _HEAT_QUALITY)


def compare_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns how two masks of one size compare, H×W uint8; 255 where either is ignored."""
    ignored = (first == IGNORE) | (second == IGNORE)
    cases = [ignored, first == second, first == 0, second == 0]
    return np.select(cases, [IGNORE, SAME, MISSED, EXTRA], CONFUSED).astype(np.uint8)


def encode_difference(kinds: np.ndarray) -> str:
    """Returns the result of :func:`compare_labels` in colours and hatchings."""
    falling, rising = _hatching(kinds.shape), _hatching(kinds.shape, rising=True)
    lines = {MISSED: rising, EXTRA: falling, CONFUSED: rising | falling}
    pixels = np.zeros((*kinds.shape, 4), np.uint8)
    for kind, colour in DIFFERENCE_COLOURS.items():
        pixels[kinds == kind] = (*colour, 205)
        pixels[(kinds == kind) & lines[kind]] = (*WHITE, 235)
    return embed(pixels)


def find_places(labels: np.ndarray, classes: Sequence[str]) -> list[tuple[int, float, float]]:
    """Returns where the names of labels have most room without crossing each other.

    Tiny and ignored regions get no name, nor those whose name would cross others everywhere. A
    place is a label, and how far it is from left and top in percent of the width and height.
    """
    small = resize_labels(labels, *shrunk_size(labels, _PLACE_SIDE))
    height, width = small.shape
    rooms = {
        label: distance_transform_edt(np.pad(small == label, 1))[1:-1, 1:-1]
        for label in np.unique(small).tolist()
        if 0 < label <= len(classes) and (small == label).mean() >= _MIN_NAMED
    }
    font, text = load_font(100), _NAME_SIZE * width  # in pixels of the small picture
    places, boxes = [], []
    # Small regions have the least choice.
    for label, room in sorted(rooms.items(), key=lambda item: item[1].max()):
        wide = text * (font.getlength(classes[label - 1]) / 100 + _NAME_PADDING)
        size = np.array([text * _NAME_LINE, wide])
        # Names do not leave the picture either.
        centres = np.argwhere(room) + 0.5
        centres = np.clip(centres, size / 2, np.maximum(size, (height, width)) - size / 2)
        free = np.ones(len(centres), bool)
        for centre, other in boxes:
            free &= (np.abs(centres - centre) >= (size + other) / 2).any(1)
        if free.any():
            best = centres[np.where(free, room[room > 0], 0).argmax()]
            boxes.append((best, size))
            top, left = (100 * best / small.shape).round(1).tolist()
            places.append((label, left, top))
    return sorted(places)
