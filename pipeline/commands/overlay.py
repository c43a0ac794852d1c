"""The command line of ``tools/overlay.py``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.commands.command_line import Parser, check_folder, fraction
from pipeline.engine.kinds import measured_kinds
from pipeline.engine.sample import ByName
from pipeline.errors import UserError
from pipeline.exchange.artefacts import Artefact, Export, find_photograph, target_path
from pipeline.exchange.overlays import draw_overlay
from pipeline.files.images import decode_image
from pipeline.files.own_files import OwnFiles


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
    opacity = "opacity of labels, from 0 to 1; default: 0.5"
    add("--opacity", type=fraction, default=0.5, metavar="A", help=opacity)
    options = parser.parse_args(arguments)
    artefacts = [Artefact(path) for path in options.folders]
    if len({artefact.classes for artefact in artefacts}) > 1:
        raise UserError("the folders have different classes: draw them one at a time")
    check_folder(options.images, "--images", "the one that holds them")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit} is out of range: give 1 or more")
    if not (common := set.intersection(*(set(artefact.entries) for artefact in artefacts))):
        raise UserError("no image is in all of the folders: give folders of one split")
    known = ByName(zip(common, common))
    for image_id in options.ids:
        if image_id not in known:
            folder = next(a.path for a in artefacts if image_id not in ByName(a.entries))
            raise UserError(f"{folder} holds no image {image_id}: its entries.jsonl lists them")
    wanted = [known[image_id] for image_id in options.ids]
    ids = (list(dict.fromkeys(wanted)) or sorted(common))[: options.limit]
    drawing = Export()
    output = OwnFiles(options.output, "overlay.py")
    folders = [options.output / artefact.kind.stage for artefact in artefacts]
    output.refuse_foreign(folder / f"{i}.png" for folder in folders for i in ids)

    def draw(artefact: Artefact, image_id: str) -> tuple[Path, bytes]:
        photograph = find_photograph(options.images, image_id)
        artefact.refuse_changed(image_id, photograph)
        image = decode_image(photograph, apply_exif=artefact.apply_exif)
        path = target_path(options.output / artefact.kind.stage, f"{image_id}.png")
        return path, draw_overlay(artefact, image_id, image, options.opacity)

    for artefact in artefacts:
        for _, (path, picture) in drawing.each(ids, partial(draw, artefact), "overlay"):
            output.write(path, picture)  # one is in memory at a time
    one_or_more = "overlay" if drawing.written == 1 else "overlays"
    print(f"{drawing.written} {one_or_more} in {options.output}")
    remedy = "could not be drawn: repair those listed above"
    drawing.refuse_left_out(f"of {len(ids)} images {remedy}")
