"""Pictures of artefacts: over their photographs, and as tiles of contact sheets."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from pipeline.cams.cams import Cams, read_cams
from pipeline.files.images import encode_png, limit_longest_side
from pipeline.files.label_images import IGNORE, read_labels
from pipeline.report.artefacts import Artefact
from pipeline.report.painting import (
    HEAT,
    INK,
    WHITE,
    Colour,
    add_legend,
    drawing_colours,
    load_font,
    overlay,
    overlay_labels,
)
from pipeline.tags.scores import decode_scores

_SIDE, _GAP, _TEXT = 240, 8, 12  # pixels: a tile's longer side, between tiles, height of text
_LINE = 18  # pixels from line to line
_CAPTION = 36  # characters of a caption

_STYLE = {"text.parse_math": False, "font.size": 9}  # names are not formulas
_MAX_SIDE = 960  # pixels of the longer side of a photograph in a figure
_MAX_COLUMNS = 4
_MAX_BARS = 12
_MAX_TITLE = 30  # characters

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


def cam_tile(image: np.ndarray, cams: Cams, caption: str) -> Tile:
    """Returns the pixelwise maximum of CAMs over their photograph, H×W×3 uint8."""
    small = photograph_tile(image, caption).picture
    heat = HEAT(cams.resized(*small.shape[:2]).max(0, initial=0))[..., :3]
    blended = (0.4 * small + 0.6 * 255 * heat).round().astype(np.uint8)
    return Tile(blended, caption, has_heat=True)


def label_tile(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Colour], caption: str
) -> Tile:
    """Returns labels over the photograph in grey, which makes their colours stand out.

    Raises:
        ValueError: a label has no colour.
    """
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
    images = [(title, [of_image[place] for place in used]) for title, of_image in images]
    groups = max(1, columns // len(used))
    width = _GAP + groups * len(used) * (_SIDE + _GAP)
    rows = [_draw_row(images[i : i + groups], width) for i in range(0, len(images), groups)]
    sheet = Image.fromarray(np.concatenate(rows))
    tiles = [tile for _, of_image in images for tile in of_image if tile is not None]
    labels = sorted(frozenset().union(*(tile.labels for tile in tiles)))
    colours = drawing_colours(palette)
    legend = [("ignored", WHITE) if k == IGNORE else (names[k], colours[k]) for k in labels]
    if any(tile.has_heat for tile in tiles):
        heat = [(value, HEAT(value, bytes=True)[:3]) for value in (0.0, 0.5, 1.0)]
        legend += [(f"CAM {value:g}", tuple(map(int, colour))) for value, colour in heat]
    return encode_png(np.asarray(add_legend(sheet, legend, _TEXT) if legend else sheet))


def _draw_row(images: Sequence[tuple[str, Sequence[Tile | None]]], width: int) -> np.ndarray:
    """Draws the tiles of a few images side by side, with their titles above them."""
    tiles = [tile for _, of_image in images for tile in of_image]
    height = max(len(tile.picture) for tile in tiles if tile is not None)
    row = Image.new("RGB", (width, height + 2 * _LINE + 2 * _GAP), WHITE)
    pen, font = ImageDraw.Draw(row), load_font(_TEXT)
    left = _GAP
    for title, of_image in images:
        pen.text((left, _GAP), _shorten(title, len(of_image) * _CAPTION), INK, font)
        for tile in of_image:
            if tile is not None:
                pen.text((left, _GAP + _LINE), _shorten(tile.caption, _CAPTION), INK, font)
                row.paste(Image.fromarray(tile.picture), (left, _GAP + 2 * _LINE))
            left += _SIDE + _GAP
    return np.asarray(row)


def draw_overlay(
    artefact: Artefact, image_id: str, image: np.ndarray, opacity: float = 0.5
) -> bytes:
    """Draws an image's artefact over its photograph, H×W×3 uint8, with a legend: a PNG file.

    Tags: the photograph, and the scores as bars. CAMs: a sheet with a tile for each. Masks and
    predictions: see :func:`pipeline.report.painting.overlay`; ``opacity`` is theirs.

    Raises:
        OSError: a file of the artefact is missing.
        ImageError: a file of the artefact is damaged.
        ValueError: a label has no name.
    """
    if artefact.stage == "tags":
        return _draw_tags(artefact, image_id, image)
    if artefact.stage == "cams":
        return _draw_cams(artefact, image_id, image)
    labels = read_labels(artefact.path / f"{image_id}.png")
    return encode_png(overlay(image, labels, artefact.names, artefact.palette, opacity))


def make_tile(artefact: Artefact, image_id: str, image: np.ndarray) -> Tile:
    """Returns an image's artefact as a tile of a sheet; raises as :func:`draw_overlay` does."""
    if artefact.stage == "tags":
        names = [artefact.classes[k] for k in artefact.entries[image_id]["tags"]]
        return photograph_tile(image, ", ".join(names) or "no tag")
    if artefact.stage == "cams":
        cams = read_cams(artefact.path / f"{image_id}.npz")
        names = [artefact.classes[k] for k in cams.keys]
        return cam_tile(image, cams, f"CAM of {', '.join(names) or 'no tag'}")
    labels = read_labels(artefact.path / f"{image_id}.png")
    return label_tile(image, labels, artefact.palette, artefact.stage.removesuffix("s"))


def _draw_tags(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    entry = artefact.entries[image_id]
    tags, scores = set(entry["tags"]), decode_scores(entry["scores"])
    best = np.argsort(-scores, kind="stable")[:_MAX_BARS].tolist()
    # Tags are always shown, however many classes score higher.
    order = [*best, *sorted(tags - set(best))]
    colours = [np.array(drawing_colours(artefact.palette)[k + 1]) / 255 for k in order]
    names = [f"{artefact.classes[k]}{' (tag)' * (k in tags)}" for k in order]
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        figure = Figure((8, 4), layout="constrained")
        picture, bars = figure.subplots(1, 2)
        picture.set_axis_off()
        picture.imshow(limit_longest_side(image, _MAX_SIDE))
        picture.set_title(_shorten(image_id, _MAX_TITLE), fontsize=8, loc="left")
        drawn = bars.barh(names, scores[order], color=colours, edgecolor="black", linewidth=0.5)
        bars.bar_label(drawn, fmt="%.2f", padding=3)
        for k, bar, text in zip(order, drawn, bars.get_yticklabels()):
            bar.set_alpha(1 if k in tags else 0.35)
            text.set_fontweight("bold" if k in tags else "normal")
        bars.invert_yaxis()
        bars.set_xlim(0, 1.1)
        bars.set_xlabel("score")
        bars.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        # The font has no letters of some scripts; boxes stand for them.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw_cams(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    cams = read_cams(artefact.path / f"{image_id}.npz")
    tiles = [photograph_tile(image, "photograph")]
    for k, cam in zip(cams.keys, cams.cams):
        of_class = Cams(np.array([k]), cam[None], cams.size)
        tiles.append(cam_tile(image, of_class, f"CAM of {artefact.classes[k]}"))
    images = [(image_id if tile is tiles[0] else "", [tile]) for tile in tiles]
    return draw_sheet(images, artefact.names, artefact.palette, min(len(tiles), _MAX_COLUMNS))
