"""The command line of ``tools/voc_submission.py``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser, check_folder
from pipeline.errors import UserError, tell
from pipeline.exchange.voc_submission import COMPETITIONS, write_submission
from pipeline.files.text import read_lines

_DESCRIPTION = """Packs predictions of PASCAL VOC 2012's test images for its evaluation server.

Each mask of the list must exist, hold labels from 0 to 20 and have the size of its image.
"""
_EXAMPLES = """examples:
  python tools/voc_submission.py --predictions outputs/voc2012/test/predictions/latest \\
      --list VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt --output results.tgz
      after python tools/run_stage.py dataset=voc2012 dataset.split=test stage=predict
"""


def run(arguments: Sequence[str]) -> None:
    """Writes the archive."""
    parser = Parser("voc_submission.py", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    predictions = "of stage=predict, dataset.split=test"
    add("--predictions", required=True, type=Path, metavar="DIR", help=predictions)
    add("--list", required=True, type=Path, metavar="FILE", help="an id a line")
    add("--output", required=True, type=Path, metavar="FILE", help="results.tgz")
    competition = "comp5: trained on VOC alone; comp6: on any data, as CLIP is; default: comp6"
    add("--competition", choices=COMPETITIONS, default="comp6", help=competition)
    images = "JPEGImages; found automatically if the list lies in VOC's own folders"
    add("--images", type=Path, metavar="DIR", help=images)
    options = parser.parse_args(arguments)
    if not options.list.is_file():
        raise UserError(f"--list {options.list} is not a file: give VOC's ImageSets/…/test.txt")
    check_folder(options.predictions, "--predictions", "an existing one")
    beside = options.list.resolve().parent.parent.parent / "JPEGImages"  # in the devkit
    if options.images is not None:
        check_folder(options.images, "--images", "an existing one")
    elif beside.is_dir():
        options.images = beside
    else:
        tell("note: sizes were not checked: give the images with --images")
    ids = [line.split()[0] for line in read_lines(options.list)]
    write_submission(options.predictions, ids, options.output, options.competition, options.images)
    print(f"{len(ids)} masks for {options.competition} written to {options.output}")
