"""Contact sheets: small pictures of results beside each other."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from pipeline.cams.cams import Cams
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from pipeline.report.page.painting import (
    HEAT,
    INK,
    WHITE,
    Colour,
    add_legend,
    drawing_colours,
    load_font,
    overlay_labels,
)

_SIDE, _GAP, _TEXT = 240, 8, 12  # pixels: a tile's longer side, between tiles, height of text
_LINE = 18  # pixels from line to line
_CAPTION = 36  # characters of a caption

_shorten = partial(textwrap.shorten, placeholder=" …")


@dataclass(frozen=True)
class Tile:
    """A small picture of a contact sheet, and what the legend has to explain of it."""

    picture: np.ndarray  # h×w×3 uint8
    caption: str  # the words above it
    labels: frozenset[int] = frozenset()
    has_heat: bool = False


def photograph_tile(image: np.ndarray, caption: str) -> Tile:
    """Returns a photograph, H×W×3 uint8, as a tile."""
    # ImageOps.contain would give very narrow images a side of no pixels.
    height, width = (max(1, round(n * _SIDE / max(image.shape[:2]))) for n in image.shape[:2])
    return Tile(np.asarray(Image.fromarray(image).resize((width, height))), caption)


def cam_tiles(image: np.ndarray, cams: Cams, classes: Sequence[str]) -> list[Tile]:
    """Returns each CAM over its photograph, H×W×3 uint8, with its class of the n names."""
    small = photograph_tile(image, "").picture
    heat = HEAT(cams.resized(*small.shape[:2]))[..., :3]
    blended = (0.4 * small + 0.6 * 255 * heat).round().astype(np.uint8)
    names = [f"CAM of {classes[k]}" for k in cams.classes]
    return [Tile(*each, has_heat=True) for each in zip(blended, names)]


def label_tile(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Colour], caption: str
) -> Tile:
    """Returns labels over the grey photograph, for contrast; raises as :func:`overlay_labels`."""
    small = Image.fromarray(photograph_tile(image, caption).picture)
    grey = np.asarray(small.convert("L").convert("RGB"))
    occurring = frozenset(np.unique(labels).tolist()) - {0}
    return Tile(overlay_labels(grey, labels, palette), caption, occurring)


def draw_sheet(
    images: Sequence[tuple[str, Sequence[Tile | None]]],
    names: Sequence[str],
    palette: Sequence[Colour],
    columns: int = 1,
) -> bytes:
    """Lays out tiles with captions, and a legend of all colours below: a PNG file.

    Images have a title and equally many tiles; none leaves a gap, or no column if no image has such
    a tile. ``names`` and ``palette`` are of the n+1 labels, the background's first; ``columns`` are
    the tiles in a row, as far as the tiles of an image stay together.
    """
    used = [place for place, tiles in enumerate(zip(*(tiles for _, tiles in images))) if any(tiles)]
    images = [(title, [tiles[place] for place in used]) for title, tiles in images]
    groups = max(1, columns // len(used))
    width = _GAP + groups * len(used) * (_SIDE + _GAP)
    rows, font = [], load_font(_TEXT)
    for start in range(0, len(images), groups):
        shown = images[start : start + groups]
        tall = max(len(tile.picture) for _, tiles in shown for tile in tiles if tile is not None)
        row, left = Image.new("RGB", (width, tall + 2 * _LINE + 2 * _GAP), WHITE), _GAP
        pen = ImageDraw.Draw(row)
        for title, tiles in shown:
            pen.text((left, _GAP), _shorten(title, len(tiles) * _CAPTION), INK, font)
            for tile in tiles:
                if tile is not None:
                    pen.text((left, _GAP + _LINE), _shorten(tile.caption, _CAPTION), INK, font)
                    row.paste(Image.fromarray(tile.picture), (left, _GAP + 2 * _LINE))
                left += _SIDE + _GAP
        rows.append(np.asarray(row))
    sheet = Image.fromarray(np.concatenate(rows))
    tiles = [tile for _, tiles in images for tile in tiles if tile is not None]
    labels = sorted(frozenset().union(*(tile.labels for tile in tiles)))
    colours = drawing_colours(palette)
    legend = [("ignored", WHITE) if k == IGNORE else (names[k], colours[k]) for k in labels]
    if any(tile.has_heat for tile in tiles):
        heat = [(value, HEAT(value, bytes=True)[:3]) for value in (0.0, 0.5, 1.0)]
        legend += [(f"CAM {value:g}", tuple(map(int, colour))) for value, colour in heat]
    return encode_png(np.asarray(add_legend(sheet, legend, _TEXT) if legend else sheet))
