"""Artefacts painted over their photographs, one by one and on contact sheets, with a legend."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from pipeline.cams.stage import read_cams
from pipeline.datasets.vocabulary import IGNORE
from pipeline.files.images import encode_png, limit_longest_side
from pipeline.files.label_images import read_labels
from pipeline.report.artefacts import Artefact
from pipeline.report.layers import HEAT, paint_labels, resize_labels
from pipeline.report.pictures import overlay_heat
from pipeline.segmenter.overlay import overlay
from pipeline.tags.stage import decode_scores

_STYLE = {"text.parse_math": False, "font.size": 9}  # names are not formulas
_DOTS_PER_INCH = 120
_TILE = 240  # pixels of the longer side on a sheet
_TILE_INCHES = 2.0
_MOST_MAPS_IN_A_ROW = 4
_MOST_BARS = 12
_TEXT_WIDTH = 30  # characters below a tile
_LEGEND_COLUMNS = 6


@dataclass(frozen=True)
class Tile:
    """A small picture of a contact sheet.

    Attributes:
        picture: h×w×3 uint8.
        text: what stands below it.
        labels: the labels that are painted in it.
        has_heat: whether maps are painted in it.
    """

    picture: np.ndarray
    text: str
    labels: frozenset[int] = frozenset()
    has_heat: bool = False


def draw_overlay(
    artefact: Artefact, image_id: str, image: np.ndarray, opacity: float = 0.5
) -> bytes:
    """Draws an image's artefact over its photograph, with a legend.

    Args:
        artefact: the stage's folder.
        image_id: one of its images.
        image: H×W×3 uint8, RGB.
        opacity: of the tint of labels, in [0, 1].

    Returns:
        A PNG file. Tags: the photograph, and the scores as bars. Maps: one picture a tag, and the
        scale of colours. Masks and predictions: see :func:`pipeline.segmenter.overlay.overlay`.

    Raises:
        OSError: a file of the artefact is missing.
        ImageError: it is damaged.
        ValueError: it holds labels that have no name.
    """
    if artefact.stage == "tags":
        return _draw_tags(artefact, image_id, image)
    if artefact.stage == "cams":
        return _draw_maps(artefact, image_id, image)
    labels = read_labels(artefact.path / f"{image_id}.png")
    return encode_png(overlay(image, labels, artefact.names, artefact.palette, opacity))


def make_tile(artefact: Artefact, image_id: str, image: np.ndarray) -> Tile:
    """Returns an image's artefact as a small picture; maps are shown by the highest of each pixel.

    Raises:
        OSError: a file of the artefact is missing.
        ImageError: it is damaged.
        ValueError: it holds labels that have no name.
    """
    small = limit_longest_side(image, _TILE)
    if artefact.stage == "tags":
        names = [artefact.classes[k] for k in artefact.entries[image_id]["tags"]]
        return Tile(small, ", ".join(names) or "no tag")
    if artefact.stage == "cams":
        cams = read_cams(artefact.path / f"{image_id}.npz")
        names = [artefact.classes[k] for k in cams.keys]
        heat = cams.resized(*small.shape[:2]).max(0, initial=0)
        return Tile(overlay_heat(small, heat), f"map of {', '.join(names) or 'no tag'}", (), True)
    labels = read_labels(artefact.path / f"{image_id}.png")
    found = frozenset(np.unique(labels).tolist()) - {0}
    if any(label > len(artefact.classes) for label in found - {IGNORE}):
        raise ValueError(f"labels {sorted(found)} for {len(artefact.classes)} classes")
    painted = paint_labels(resize_labels(labels, *small.shape[:2]), artefact.palette)
    photograph = Image.fromarray(small).convert("RGBA")
    picture = Image.alpha_composite(photograph, Image.fromarray(painted)).convert("RGB")
    return Tile(np.asarray(picture), artefact.stage.removesuffix("s"), found)


def draw_sheet(
    images: Sequence[tuple[str, Sequence[Tile]]], artefact: Artefact, columns: int
) -> bytes:
    """Lays out tiles with what they are, and a legend of all colours below: a PNG file.

    Args:
        images: id and tiles of each image, as many tiles each.
        artefact: names and colours.
        columns: tiles in a row; an image's tiles stay together.
    """
    per_image = len(images[0][1])
    groups = max(1, columns // per_image)
    across, down = groups * per_image, math.ceil(len(images) / groups)
    tiles = [tile for _, of_image in images for tile in of_image]
    labels = sorted(frozenset().union(*(tile.labels for tile in tiles)))
    handles = [Patch(**_appearance(label, artefact)) for label in labels]
    legend = 0.3 * math.ceil(len(handles) / _LEGEND_COLUMNS) + 0.7
    figure = Figure((across * _TILE_INCHES, down * (_TILE_INCHES + 0.3) + legend))
    bottom = legend / figure.get_figheight()
    with matplotlib.rc_context(_STYLE):
        figure.set_layout_engine("constrained", rect=(0, bottom, 1, 1 - bottom))
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for index, (image_id, of_image) in enumerate(images):
            row, group = divmod(index, groups)
            for place, tile in enumerate(of_image):
                text = f"{image_id}\n{tile.text}" if place == 0 else f"\n{tile.text}"
                _show(grid[row, group * per_image + place], _squared(tile.picture), text)
        if handles:
            ncols = min(len(handles), _LEGEND_COLUMNS)
            figure.legend(handles=handles, loc="lower center", ncols=ncols, frameon=False)
        if any(tile.has_heat for tile in tiles):
            _add_scale(figure, (0.3, bottom * 0.8, 0.4, 0.1 / figure.get_figheight()))
        return _to_png(figure)


def _draw_tags(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    entry = artefact.entries[image_id]
    tags, scores = set(entry["tags"]), decode_scores(entry["scores"]["scores"])
    shown = np.argsort(-scores, kind="stable")[:_MOST_BARS]
    # Tags always stand there, however many classes score higher.
    order = [*shown.tolist(), *sorted(tags - set(shown.tolist()))]
    colours = [np.array(artefact.palette[k + 1]) / 255 for k in order]
    names = [f"{artefact.classes[k]}{' (tag)' * (k in tags)}" for k in order]
    with matplotlib.rc_context(_STYLE):
        figure = Figure((8, 4), layout="constrained")
        picture, bars = figure.subplots(1, 2)
        _show(picture, limit_longest_side(image, 4 * _TILE), image_id)
        drawn = bars.barh(names, scores[order], color=colours, edgecolor="black", linewidth=0.5)
        bars.bar_label(drawn, fmt="%.2f", padding=3)
        for k, bar, text in zip(order, drawn, bars.get_yticklabels()):
            bar.set_alpha(1 if k in tags else 0.35)
            text.set_fontweight("bold" if k in tags else "normal")
        bars.invert_yaxis()
        bars.set_xlim(0, 1.1)
        bars.set_xlabel("score")
        bars.spines[["top", "right"]].set_visible(False)
        return _to_png(figure)


def _draw_maps(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    small = limit_longest_side(image, 4 * _TILE)
    cams = read_cams(artefact.path / f"{image_id}.npz")
    maps = cams.resized(*small.shape[:2])
    pictures = [(image_id, small)]
    pictures += [
        (artefact.classes[key], overlay_heat(small, heat)) for key, heat in zip(cams.keys, maps)
    ]
    across = min(len(pictures), _MOST_MAPS_IN_A_ROW)
    down = math.ceil(len(pictures) / across)
    with matplotlib.rc_context(_STYLE):
        figure = Figure((3 * across, 2.6 * down + 0.6), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (text, picture) in zip(grid.flat, pictures):
            _show(axes, picture, text)
        mappable = ScalarMappable(cmap=HEAT)
        figure.colorbar(mappable, ax=grid, location="bottom", aspect=40, label="map of the class")
        return _to_png(figure)


def _show(axes: Axes, picture: np.ndarray, text: str) -> None:
    axes.set_axis_off()
    axes.imshow(picture)
    lines = [textwrap.shorten(line, _TEXT_WIDTH, placeholder=" …") for line in text.split("\n")]
    axes.set_title("\n".join(lines), fontsize=8, loc="left")


def _squared(picture: np.ndarray) -> np.ndarray:
    """Returns a tile on a white square, so that tiles stand in line."""
    square = np.full((_TILE, _TILE, 3), 255, np.uint8)
    height, width = picture.shape[:2]
    square[:height, :width] = picture
    return square


def _add_scale(figure: Figure, place: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(place)
    axes.set_in_layout(False)
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), cax=axes, orientation="horizontal")
    bar.ax.tick_params(labelsize=7)


def _appearance(label: int, artefact: Artefact) -> dict[str, object]:
    if label == IGNORE:
        return {"facecolor": "white", "edgecolor": "grey", "label": "ignored"}
    colour = np.array(artefact.palette[label]) / 255
    return {"facecolor": colour, "edgecolor": "grey", "label": artefact.names[label]}


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Of names in scripts that the font lacks; boxes stand for their letters.
        warnings.simplefilter("ignore", UserWarning)
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
