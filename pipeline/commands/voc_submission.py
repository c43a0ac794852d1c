"""The command line of ``tools/voc_submission.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser
from pipeline.errors import UserError
from pipeline.files.text import read_lines
from pipeline.segmenter.submission import COMPETITIONS, write_submission

_DESCRIPTION = """Packs predictions of PASCAL VOC 2012's test images for its evaluation server.

Each mask of the list must exist, hold labels from 0 to 20 and have the size of its image.
"""
_EXAMPLES = """examples:
  python tools/voc_submission.py --predictions outputs/voc2012/test/predictions/latest \\
      --list VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt --output results.tgz
      after python tools/run_stage.py dataset=voc2012 dataset.split=test stage=predict
"""


def run(arguments: Sequence[str]) -> None:
    """Writes the archive.

    Args:
        arguments: those of the command line, without the program's name.

    Raises:
        UserError: files are missing, or masks cannot be submitted.
    """
    parser = Parser("voc_submission.py", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--predictions",
        required=True,
        type=Path,
        metavar="DIR",
        help="of stage=predict, dataset.split=test",
    )
    parser.add_argument("--list", required=True, type=Path, metavar="FILE", help="an id a line")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="results.tgz")
    parser.add_argument(
        "--competition",
        choices=COMPETITIONS,
        default="comp6",
        help="comp5: trained on VOC alone; comp6: on any data, as CLIP is; default: comp6",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="JPEGImages; found automatically if the list lies in VOC's own folders",
    )
    options = parser.parse_args(arguments)
    if not options.list.is_file():
        raise UserError(f"--list {options.list} is not a file: give VOC's ImageSets/…/test.txt")
    for name in ("predictions", "images"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} {folder} is not a folder: give an existing one")
    ids = [line.split()[0] for line in read_lines(options.list)]
    images = options.images or _devkit_images(options.list)
    if images is None:
        print("note: sizes were not checked: give the images with --images", file=sys.stderr)
    write_submission(options.predictions, ids, options.output, options.competition, images)
    print(f"{len(ids)} masks for {options.competition} written to {options.output}")


def _devkit_images(image_list: Path) -> Path | None:
    """Returns the images of the devkit if the list lies in its ``ImageSets/Segmentation``."""
    folder = image_list.resolve().parent.parent.parent / "JPEGImages"
    return folder if folder.is_dir() else None
