"""Contact sheets: small pictures side by side, with captions and a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.cams.cams import Cams
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from pipeline.report import painting
from pipeline.report.painting import HEAT, INK, WHITE, Colour

_SIDE, _GAP, _TEXT = 240, 8, 12  # pixels: a tile's longer side, between tiles, height of text
_LINE = 18  # pixels from line to line
_CAPTION = 36  # characters of a caption


@dataclass(frozen=True)
class Tile:
    """A small picture of a contact sheet, h×w×3 uint8, with the words above it.

    ``labels`` and ``has_heat`` say what the legend has to explain.
    """

    picture: np.ndarray
    caption: str
    labels: frozenset[int] = frozenset()
    has_heat: bool = False


def photograph_tile(image: np.ndarray, caption: str) -> Tile:
    """Returns a photograph, H×W×3 uint8, as a tile."""
    return Tile(np.asarray(_scale(image)), caption)


def cam_tile(image: np.ndarray, cams: Cams, caption: str) -> Tile:
    """Returns the pixelwise maximum of CAMs over their photograph, H×W×3 uint8."""
    small = np.asarray(_scale(image))
    heat = cams.resized(*small.shape[:2]).max(0, initial=0)
    return Tile(painting.overlay_heat(small, heat), caption, has_heat=True)


def label_tile(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Colour], caption: str
) -> Tile:
    """Returns labels over the photograph in grey, which makes their colours stand out.

    Raises:
        ValueError: a label has no colour.
    """
    occurring = frozenset(np.unique(labels).tolist()) - {0}
    if max(occurring - {IGNORE}, default=0) >= len(palette):
        raise ValueError(f"labels {sorted(occurring)} for {len(palette) - 1} classes")
    grey = np.asarray(_scale(image).convert("L").convert("RGB"))
    return Tile(painting.overlay_labels(grey, labels, palette), caption, occurring)


def draw_sheet(
    images: Sequence[tuple[str, Sequence[Tile | None]]],
    names: Sequence[str],
    palette: Sequence[Colour],
    columns: int = 1,
) -> bytes:
    """Lays out tiles with captions, and a legend of all colours below: a PNG file.

    Args:
        images: a title and the tiles of each image, as many tiles each; none leaves a gap, or no
            column if no image has such a tile.
        names: n+1 names of labels, the background's first.
        palette: n+1 colours.
        columns: tiles in a row, as far as the tiles of an image stay together.
    """
    used = [place for place, tiles in enumerate(zip(*(tiles for _, tiles in images))) if any(tiles)]
    images = [(title, [of_image[place] for place in used]) for title, of_image in images]
    per_image = len(used)
    groups = max(1, columns // per_image)
    rows = [images[i : i + groups] for i in range(0, len(images), groups)]
    tiles = [tile for _, of_image in images for tile in of_image if tile is not None]
    heights = [
        max(tile.picture.shape[0] for _, of_image in row for tile in of_image if tile is not None)
        for row in rows
    ]
    step = _SIDE + _GAP
    size = (_GAP + groups * per_image * step, sum(heights) + len(rows) * (2 * _LINE + 2 * _GAP))
    sheet = Image.new("RGB", size, WHITE)
    pen, font = ImageDraw.Draw(sheet), painting.load_font(_TEXT)
    top = _GAP
    for row, height in zip(rows, heights):
        for group, (title, of_image) in enumerate(row):
            left = _GAP + group * per_image * step
            pen.text((left, top), _shorten(title, per_image), INK, font)
            for column, tile in enumerate(of_image):
                if tile is None:
                    continue
                place = left + column * step
                pen.text((place, top + _LINE), _shorten(tile.caption), INK, font)
                sheet.paste(Image.fromarray(tile.picture), (place, top + 2 * _LINE))
        top += height + 2 * _LINE + 2 * _GAP
    labels = sorted(frozenset().union(*(tile.labels for tile in tiles)))
    legend = [("ignored", WHITE) if k == IGNORE else (names[k], palette[k]) for k in labels]
    if any(tile.has_heat for tile in tiles):
        heat = [(value, HEAT(value, bytes=True)[:3]) for value in (0.0, 0.5, 1.0)]
        legend += [(f"CAM {value:g}", tuple(map(int, colour))) for value, colour in heat]
    return encode_png(np.asarray(painting.add_legend(sheet, legend, _TEXT) if legend else sheet))


def _shorten(words: str, tiles: int = 1) -> str:
    return textwrap.shorten(words, tiles * _CAPTION, placeholder=" …")


def _scale(image: np.ndarray) -> Image.Image:
    # ImageOps.contain would give very narrow images a side of no pixels.
    height, width = (max(1, round(n * _SIDE / max(image.shape[:2]))) for n in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
