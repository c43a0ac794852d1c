"""The command line of ``tools/import_masks.py``."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.engine.progress import track
from pipeline.errors import ImageError, UserError
from pipeline.exchange.colour_tables import Colour, read_colours, voc_colours
from pipeline.exchange.masks import read_foreign_mask
from pipeline.files.atomic import write_atomically
from pipeline.files.images import SUFFIXES, encode_png

_EXAMPLES = """examples:
  python tools/import_masks.py MASKS --classes cat,dog,person --output masks
      masks/<id>.png of every MASKS/<id>.png: palette and grey PNGs hold labels (0 background, k+1 class
      k, 255 ignore), coloured ones PASCAL VOC's colours
  python tools/import_masks.py MASKS --classes names.txt --colours labelmap.txt --output masks
      coloured PNGs with colours of their own: a line each, as in 64 128 64 cat or cat:64,128,64
  python tools/run_stage.py … segmenter.masks=masks stage=[train,predict]
      trains on them; dataset.masks=masks measures with them

All files are checked before the first is written: where one cannot be used nothing is, every one is
named with the reason, and the exit code is 2.
"""  # noqa: E501


def run(arguments: Sequence[str]) -> None:
    """Imports the masks that the arguments name.

    Args:
        arguments: those of the command line, without the program's name.

    Raises:
        UserError: something that the user can fix, or masks that cannot be used.
    """
    options = _parse(arguments)
    vocabulary = build_vocabulary(VocabularySettings(classes=_classes(options.classes)))
    count = len(vocabulary.classes)
    colours = voc_colours(count)
    if options.colours is not None:
        colours = read_colours(options.colours, vocabulary.classes)
    masks = _find(options.folder, options.output)
    problems = _check(masks, count, colours, options.palette == "colour")
    for path, reason in problems.items():
        print(f"{path.relative_to(options.folder)}: {reason}", file=sys.stderr)
    if problems:
        raise UserError(
            f"{len(problems)} of {len(masks)} masks cannot be imported, and nothing was written:"
            " mend what is named above"
        )
    _write(masks, vocabulary, colours, options)
    print(f"{len(masks)} masks written to {options.output}")


def _classes(given: str) -> str | list[str]:
    """Returns a list's names, or the path of a file that holds them, as ``dataset.classes`` is."""
    if Path(given).expanduser().is_file():
        return given
    if given.startswith("[") and given.endswith("]"):
        given = given[1:-1]
    if "," not in given and Path(given).suffix:  # a file that is not there
        return given
    return [name.strip() for name in given.split(",")]


def _find(folder: Path, output: Path) -> list[Path]:
    """Returns the image files below a folder.

    Raises:
        UserError: there is none, the folder does not exist, or the output lies in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one that holds the masks")
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--output {output} lies in the folder of the masks: give another")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is no folder: give another")
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{folder} holds no PNG: give the folder that holds the masks")
    return found


def _check(
    masks: Sequence[Path], count: int, colours: Mapping[Colour, int], palette_by_colour: bool
) -> dict[Path, str]:
    """Returns why masks cannot be used; empty where all can."""
    problems: dict[Path, str] = {}
    taken: dict[Path, Path] = {}
    with track("check", len(masks)) as advance:
        for path in masks:
            try:
                read_foreign_mask(path, count, colours, palette_by_colour)
            except ImageError as error:
                problems[path] = str(error)
            other = taken.setdefault(path.with_suffix(""), path)
            if other != path and path not in problems:
                problems[path] = f"has the same name as {other.name}: keep one of them"
            advance(note=f"{len(problems)} cannot be used" if problems else None)
    return problems


def _write(
    masks: Sequence[Path], vocabulary: Vocabulary, colours: Mapping[Colour, int], options: Namespace
) -> None:
    """Writes what was checked; it is read again, since all masks need not fit into memory."""
    count, by_colour = len(vocabulary.classes), options.palette == "colour"
    with track("import", len(masks)) as advance:
        for path in masks:
            try:
                labels = read_foreign_mask(path, count, colours, by_colour)
            except ImageError as error:
                raise UserError(f"{path} changed meanwhile: {error}") from error
            target = options.output / path.relative_to(options.folder).with_suffix(".png")
            write_atomically(target, encode_png(labels, vocabulary.palette))
            advance()


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser(
        "import_masks.py",
        "Turns palette, indexed, grey and coloured PNG masks into masks of this pipeline.",
        _EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="masks, in folders if need be")
    parser.add_argument(
        "--classes",
        required=True,
        metavar="NAMES",
        help="names with commas between them, or a file as dataset.classes takes it",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--colours",
        type=Path,
        metavar="FILE",
        help="a colour and a name a line; PASCAL VOC's colours unless given",
    )
    parser.add_argument(
        "--palette",
        choices=("index", "colour"),
        default="index",
        help="what counts in palette PNGs, their indices or their colours; index",
    )
    return parser.parse_args(arguments)
