"""Writes a trained segmenter as an ONNX file that needs neither this package nor mmsegmentation.

The input "image" is N×3×H×W float32, RGB in [0, 255]; the outputs are "logits", N×(n+1)×H×W, and
"labels", N×H×W. The names and colours of the classes are in the file's metadata.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import Parser, answer

EXAMPLES = """examples:
  python tools/export_onnx.py --checkpoint outputs/folder/segmenter/latest --output model.onnx
      for images of 512×512
  python tools/export_onnx.py --checkpoint DIR --output model.onnx --size 480 640
      for images of that height and width
  python tools/export_onnx.py --checkpoint DIR --output model.onnx --dynamic
      for images of any size
"""


def run(arguments: Sequence[str]) -> None:
    """Writes the file that the arguments ask for, and says what it takes.

    Raises:
        UserError: something that the user can fix.
    """
    parser = Parser("export_onnx.py", __doc__, EXAMPLES)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="C",
        help="a file of stage=train, or the folder that holds it",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="model.onnx")
    parser.add_argument(
        "--size", nargs=2, type=int, default=(512, 512), metavar=("H", "W"), help="512 512"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number of images of any size, if it works"
    )
    parser.add_argument(
        "--best", action="store_true", help="of a folder, the checkpoint with the highest mIoU"
    )
    options = parser.parse_args(arguments)
    # PyTorch and mmsegmentation take seconds to import.
    from pipeline.segmenter.export import export_onnx
    from pipeline.segmenter.predict import Segmenter

    segmenter = Segmenter.from_run(options.checkpoint, which="best" if options.best else "last")
    shape = export_onnx(segmenter, options.output, *options.size, dynamic=options.dynamic)
    if options.dynamic and None not in shape:
        note = "note: this network's graph holds for one size alone, so that --size was kept"
        print(note, file=sys.stderr)
    sides = "N×3×H×W" if shape.height is None else f"N×3×{shape.height}×{shape.width}"
    sides = sides if shape.batch is None else sides.replace("N", str(shape.batch))
    print(f"image {sides} → logits, labels of {len(segmenter.class_names)} classes")
    print(f"written to {options.output}")


if __name__ == "__main__":
    answer(run)
