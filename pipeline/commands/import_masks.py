"""The command line of ``tools/import_masks.py``."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.commands.command_line import Parser, check_folder
from pipeline.datasets.mask_images import Reading, parse_values, refuse_parts_of_masks
from pipeline.datasets.settings import AnnotationSettings, VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.progress import track
from pipeline.engine.records import ENTRIES
from pipeline.errors import ImageError, UserError
from pipeline.exchange.artefacts import Artefact, Export
from pipeline.files.images import SUFFIXES, encode_png
from pipeline.files.label_images import refuse_brush_labels
from pipeline.files.own_files import OwnFiles
from pipeline.files.text import given_path


def run(arguments: Sequence[str]) -> None:
    """Imports a folder of masks."""
    options = _parse(arguments)
    vocabulary = build_vocabulary(VocabularySettings(classes=_classes(options.classes)))
    settings = AnnotationSettings(palette=options.palette, colours=options.colours)
    reading = replace(Reading.of(settings, "", vocabulary.classes), other=None)
    if options.values is not None:
        reading = replace(reading, values=parse_values(options.values, len(vocabulary.classes)))
    check_folder(options.folder, "", "the one that holds the masks")
    if options.output.resolve().is_relative_to(options.folder.resolve()):
        raise UserError(f"--output {options.output} is in the folder of the masks: give another")
    files = [path for path in sorted(options.folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    masks = [path.relative_to(options.folder) for path in files]
    if (options.folder / ENTRIES).is_file():  # a stage's, where results of removed images lie, too
        masks = [Path(f"{i}.png") for i in sorted(Artefact(options.folder).entries)]
    if not masks:
        raise UserError(f"{options.folder} holds no PNG: give the folder that holds the masks")
    refuse_parts_of_masks((path.name for path in masks), options.folder)
    targets = {path: options.output / path.with_suffix(".png") for path in masks}
    output = OwnFiles(options.output, "import_masks.py")
    output.refuse_foreign(targets.values())
    checked, taken, found = Export(), {}, set()

    def check(path: Path) -> None:
        other = taken.setdefault(path.with_suffix(""), path)
        found.update(np.unique(reading.read_png(options.folder / path)).tolist())
        if other != path:
            raise ImageError(f"has the same name as {other.name}: keep one of them")

    list(checked.each(masks, check, "check", "cannot be used"))
    remedy = "cannot be imported, and nothing was written: fix those that are named above"
    checked.refuse_left_out(f"of {len(masks)} masks {remedy}", prefix="")
    if reading.values is None:
        remedy = "if so, give --values 255=1; if its pixels are ignored, --values 1=1"
        refuse_brush_labels(found, str(options.folder), remedy)
    with track("import", len(masks)) as advance:
        for path, target in targets.items():  # read again, since all may not fit into memory
            labels = reading.read_png(options.folder / path)
            output.write(target, encode_png(labels, vocabulary.palette))
            advance()
    print(f"{len(masks)} masks written to {options.output}")


def _classes(given: str) -> str | list[str]:
    """Returns a list of names, or the path of a file with them, as for ``dataset.classes``."""
    is_path = Path(given).suffix and not {"[", ","} & {*given}  # of a file that may be missing
    if is_path or given_path(given, "--classes").is_file():
        return given
    return [name.strip() for name in given.removeprefix("[").removesuffix("]").split(",")]


def _parse(arguments: Sequence[str]) -> Namespace:
    title = "Turns palette, indexed, grey and coloured PNG masks into masks of this pipeline."
    parser = Parser("import_masks.py", title)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a folder with masks, also in subfolders")
    classes = "names separated by commas, or a file as for dataset.classes"
    add("--classes", required=True, metavar="NAMES", help=classes)
    add("--output", required=True, type=Path, metavar="FOLDER", help="the folder to write")
    colours = "a file with one colour and name per line; default: PASCAL VOC's colours"
    add("--colours", metavar="FILE", help=colours)
    values = "of grey and palette PNGs; 255=1: pixel value 255 is class 1"
    add("--values", metavar="V=K,…", help=values)
    palette = "read the indices or the colours of palette PNGs; default: index"
    add("--palette", choices=("index", "colour"), default="index", help=palette)
    return parser.parse_args(arguments)
