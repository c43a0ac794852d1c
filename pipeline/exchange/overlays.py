"""Pictures of finished stages: over their photographs, and as tiles of contact sheets."""

import io
import textwrap
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.cams.cams import read_cams
from pipeline.exchange.artefacts import Artefact
from pipeline.files.images import encode_png, limit_longest_side
from pipeline.files.label_images import read_labels
from pipeline.report.page.painting import drawing_colours, overlay
from pipeline.report.page.sheets import Tile, cam_tiles, draw_sheet, label_tile, photograph_tile
from pipeline.tags.scores import decode_scores

_STYLE = {"text.parse_math": False, "font.size": 9}  # names are not formulas
_MAX_SIDE = 960  # pixels of the longer side of a photograph in a figure
_MAX_COLUMNS = 4
_MAX_BARS = 12
_MAX_TITLE = 30  # characters


def draw_overlay(
    artefact: Artefact, image_id: str, image: np.ndarray, opacity: float = 0.5
) -> bytes:
    """Draws an image's artefact over its photograph, H×W×3 uint8, with a legend: a PNG file.

    Tags: the photograph, and the scores as bars. CAMs: a sheet with a tile for each. Masks and
    other labels: see :func:`~pipeline.report.page.painting.overlay`; ``opacity`` is theirs. Raises
    an OSError for a missing file of the artefact, an ImageError for a damaged one, and a ValueError
    for a label without a name.
    """
    if artefact.kind.holds == "tags":
        return _draw_tags(artefact, image_id, image)
    if artefact.kind.holds == "cams":
        tiles = [photograph_tile(image, "image"), *make_tiles(artefact, image_id, image)]
        images = [(image_id if tile is tiles[0] else "", [tile]) for tile in tiles]
        return draw_sheet(images, artefact.names, artefact.palette, min(len(tiles), _MAX_COLUMNS))
    labels = read_labels(artefact.path / f"{image_id}.png")
    return encode_png(overlay(image, labels, artefact.names, artefact.palette, opacity))


def make_tiles(artefact: Artefact, image_id: str, image: np.ndarray) -> list[Tile]:
    """Returns an image's tiles: one, or of CAMs one a tag; raises as :func:`draw_overlay` does."""
    if artefact.kind.holds == "tags":
        names = [artefact.classes[k] for k in artefact.entries[image_id]["tags"]]
        return [photograph_tile(image, ", ".join(names) or "no tag")]
    if artefact.kind.holds == "cams":
        cams = read_cams(artefact.path / f"{image_id}.npz")
        return cam_tiles(image, cams, artefact.classes) or [photograph_tile(image, "no tag")]
    labels = read_labels(artefact.path / f"{image_id}.png")
    return [label_tile(image, labels, artefact.palette, artefact.kind.layer)]


def _draw_tags(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    entry = artefact.entries[image_id]
    tags, scores = set(entry["tags"]), decode_scores(entry["scores"])
    best = np.argsort(-scores, kind="stable")[:_MAX_BARS].tolist()
    # Tags are always shown, however many classes score higher.
    order = [*best, *sorted(tags - set(best))]
    colours = [np.array(drawing_colours(artefact.palette)[k + 1]) / 255 for k in order]
    names = [f"{artefact.classes[k]}{' (tag)' if k in tags else ''}" for k in order]
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        figure = Figure((8, 4), layout="constrained")
        picture, bars = figure.subplots(1, 2)
        picture.set_axis_off()
        picture.imshow(limit_longest_side(image, _MAX_SIDE))
        title = textwrap.shorten(image_id, _MAX_TITLE, placeholder=" …")
        picture.set_title(title, fontsize=8, loc="left")
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
