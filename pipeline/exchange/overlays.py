"""Pictures of finished stages: over their photographs, and as tiles of contact sheets."""

import numpy as np
from PIL import Image

from pipeline.cams.cams import read_cams
from pipeline.exchange.artefacts import Artefact
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.report.page.painting import add_legend, drawing_colours, overlay
from pipeline.report.page.sheets import Tile, cam_tiles, draw_sheet, label_tile, photograph_tile
from pipeline.tags.scores import decode_scores

_MAX_COLUMNS = 4
_TEXT = 14  # pixels


def draw_overlay(
    artefact: Artefact, image_id: str, image: np.ndarray, opacity: float = 0.5
) -> bytes:
    """Draws an image's artefact over its photograph, H×W×3 uint8, with a legend: a PNG file.

    Tags: the photograph over their scores. CAMs: a sheet with a tile for each. Masks and other
    labels: see :func:`~pipeline.report.page.painting.overlay`; ``opacity`` is theirs. Raises
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
    entry, colours = artefact.entries[image_id], drawing_colours(artefact.palette)
    scores, picture = decode_scores(entry["scores"]), photograph_tile(image, "").picture
    best = sorted(entry["tags"], key=lambda k: -scores[k])
    legend = [(f"{artefact.classes[k]} {scores[k]:.2f}", colours[k + 1]) for k in best]
    legend = legend or [("no tag", None)]
    return encode_png(np.asarray(add_legend(Image.fromarray(picture), legend, _TEXT)))
