"""Packs predictions of PASCAL VOC 2012's test images as its evaluation server takes them.

Every mask of the list is checked: that it is there, holds labels 0 to 20, and has its image's size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import Parser, answer
from pipeline.datasets.layout import read_lines
from pipeline.errors import UserError
from pipeline.segmenter.submission import COMPETITIONS, write_submission

EXAMPLES = """examples:
  python tools/voc_submission.py --predictions outputs/voc2012/test/predictions/latest \\
      --list VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt --output results.tgz
      after python tools/run_stage.py dataset=voc2012 dataset.split=test stage=predict
"""


def run(arguments: Sequence[str]) -> None:
    """Writes the archive that the arguments ask for.

    Raises:
        UserError: something that the user can fix.
    """
    parser = Parser("voc_submission.py", __doc__, EXAMPLES)
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
        help="comp5: trained on VOC's data alone; comp6: on any, as CLIP was; comp6",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="JPEGImages; found by itself where the list lies in VOC's own folders",
    )
    options = parser.parse_args(arguments)
    if not options.list.is_file():
        raise UserError(f"--list {options.list} is no file: give VOC's ImageSets/…/test.txt")
    for name in ("predictions", "images"):
        folder = getattr(options, name)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{name} {folder} is no folder: give an existing one")
    ids = [line.split()[0] for line in read_lines(options.list)]
    images = options.images or _devkit_images(options.list)
    if images is None:
        note = (
            "note: sizes were not compared with those of the images: --images says where they are"
        )
        print(note, file=sys.stderr)
    write_submission(options.predictions, ids, options.output, options.competition, images)
    print(f"{len(ids)} masks for {options.competition} written to {options.output}")


def _devkit_images(image_list: Path) -> Path | None:
    """Returns the devkit's images, for a list that lies in ``ImageSets/Segmentation``."""
    folder = image_list.resolve().parent.parent.parent / "JPEGImages"
    return folder if folder.is_dir() else None


if __name__ == "__main__":
    answer(run)
