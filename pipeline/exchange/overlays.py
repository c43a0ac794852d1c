"""Pictures of finished stages over their photographs."""

import numpy as np
from PIL import Image

from pipeline.cams.cams import read_cams
from pipeline.exchange.artefacts import Artefact
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.report.page.painting import add_legend, drawing_colours, overlay
from pipeline.report.page.sheets import cam_tiles, draw_sheet, photograph_tile
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
        cams = read_cams(artefact.path / f"{image_id}.npz")
        found = cam_tiles(image, cams, artefact.classes) or [photograph_tile(image, "no tag")]
        tiles = [photograph_tile(image, "image"), *found]
        images = [(image_id if tile is tiles[0] else "", [tile]) for tile in tiles]
        return draw_sheet(images, artefact.names, artefact.palette, min(len(tiles), _MAX_COLUMNS))
    labels = read_labels(artefact.path / f"{image_id}.png")
    return encode_png(overlay(image, labels, artefact.names, artefact.palette, opacity))


def _draw_tags(artefact: Artefact, image_id: str, image: np.ndarray) -> bytes:
    entry, colours = artefact.entries[image_id], drawing_colours(artefact.palette)
    scores, picture = decode_scores(entry["scores"]), photograph_tile(image, "").picture
    best = sorted(entry["tags"], key=lambda k: -scores[k])
    legend = [(f"{artefact.classes[k]} {scores[k]:.2f}", colours[k + 1]) for k in best]
    legend = legend or [("no tag", None)]
    return encode_png(np.asarray(add_legend(Image.fromarray(picture), legend, _TEXT)))
