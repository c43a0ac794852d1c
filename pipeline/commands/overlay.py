"""The command line of ``tools/overlay.py``."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np

from pipeline.commands.command_line import Parser, check_folder, fraction
from pipeline.engine.kinds import measured_kinds
from pipeline.engine.sample import ByName
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact, Export, find_photograph, target_path
from pipeline.exchange.overlays import draw_overlay, make_tiles
from pipeline.files.images import decode_image
from pipeline.files.own_files import OwnFiles
from pipeline.report.page.sheets import draw_sheet

_ROWS = 6  # in a sheet


def run(arguments: Sequence[str]) -> None:
    """Draws the artefacts that the arguments name."""
    title = "Paints tags, CAMs, masks or predictions over their photographs, with a legend."
    parser = Parser("overlay.py", title)
    add = parser.add_argument
    stage = f"<output_dir>/<split>/<{'|'.join(measured_kinds())}>/<key or latest>"
    add("folders", nargs="+", type=Path, metavar="FOLDER", help=f"a finished stage: {stage}")
    add("--images", required=True, type=Path, metavar="DIR", help="the folder with the photographs")
    add("--output", type=Path, default="overlays", metavar="DIR", help="default: overlays/")
    add("--ids", nargs="+", default=[], metavar="ID", help="only these images")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--sheet", action="store_true", help="write contact sheets instead of a file per image")
    add("--columns", type=int, default=6, metavar="N", help="pictures per row of a sheet; 6")
    opacity = "opacity of labels, from 0 to 1; default: 0.5"
    add("--opacity", type=fraction, default=0.5, metavar="A", help=opacity)
    options = parser.parse_args(arguments)
    artefacts = [Artefact(path) for path in options.folders]
    if len({artefact.classes for artefact in artefacts}) > 1:
        raise UserError("the folders have different classes: draw them one at a time")
    check_folder(options.images, "--images", "the one that holds them")
    for name in ("limit", "columns"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value} is out of range: give 1 or more")
    if not (common := set.intersection(*(set(artefact.entries) for artefact in artefacts))):
        raise UserError("no image is in all of the folders: give folders of one split")
    known = ByName(zip(common, common))
    for image_id in options.ids:
        if image_id not in known:
            folder = next(a.path for a in artefacts if image_id not in ByName(a.entries))
            raise UserError(f"{folder} holds no image {image_id}: its entries.jsonl lists them")
    wanted = [known[image_id] for image_id in options.ids]
    ids = (list(dict.fromkeys(wanted)) or sorted(common))[: options.limit]
    drawing, written = Export(), 0
    output = OwnFiles(options.output, "overlay.py")
    if not options.sheet:
        folders = [options.output / artefact.kind.stage for artefact in artefacts]
        output.refuse_foreign(folder / f"{i}.png" for folder in folders for i in ids)
    for path, data in _draw(artefacts, ids, options, drawing):
        output.write(path, data)
        written += 1
    one, several = ("sheet", "sheets") if options.sheet else ("overlay", "overlays")
    print(f"{written} {one if written == 1 else several} in {options.output}")
    remedy = "could not be drawn: repair those listed above"
    drawing.refuse_left_out(f"of {len(ids)} images {remedy}")


def _draw(
    artefacts: Sequence[Artefact], ids: Sequence[str], options: Namespace, drawing: Export
) -> Iterator[tuple[Path, bytes]]:
    """Yields pictures or contact sheets as PNG files; one is in memory at a time."""

    def load(artefact: Artefact, image_id: str) -> np.ndarray:
        path = find_photograph(options.images, image_id)
        artefact.refuse_changed(image_id, path)
        return decode_image(path, apply_exif=artefact.apply_exif)

    def draw(artefact: Artefact, image_id: str) -> tuple[Path, bytes]:
        path = target_path(options.output / artefact.kind.stage, f"{image_id}.png")
        return path, draw_overlay(artefact, image_id, load(artefact, image_id), options.opacity)

    if not options.sheet:
        for artefact in artefacts:
            for _, picture in drawing.each(ids, partial(draw, artefact), "overlay"):
                yield picture
        return
    rows = drawing.each(ids, lambda i: [make_tiles(a, i, load(a, i)) for a in artefacts], "overlay")
    per_sheet = _ROWS * max(1, options.columns // len(artefacts))
    names, palette = artefacts[0].names, artefacts[0].palette
    for number, page in enumerate(iter(lambda: list(islice(rows, per_sheet)), []), 1):
        path = options.output / f"sheet_{number}.png"
        titles, found = zip(*page)
        # Images have equally many tiles of an artefact: CAMs are one for each tag.
        padded = [zip(*zip_longest(*tiles)) for tiles in zip(*found)]
        tiles = [[*chain(*each)] for each in zip(*padded)]
        yield path, draw_sheet([*zip(titles, tiles)], names, palette, options.columns)
