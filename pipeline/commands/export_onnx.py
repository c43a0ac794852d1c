"""The command line of ``tools/export_onnx.py``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.command_line import Parser, add_checkpoint, load_segmenter
from pipeline.errors import tell
from pipeline.files.own_files import OwnFiles

_DESCRIPTION = """Writes a trained segmenter as an ONNX file, which needs no mmsegmentation.

The input "image" is N×3×H×W float32, RGB in [0, 255]. The outputs are "logits", N×(n+1)×H×W
float32, and "labels", N×H×W uint8. The metadata of the file hold the image size and the names and
colours of the classes. The metrics, the training data and the licences are in README.md beside it,
or in NAME.md if README.md describes something else.
"""


def run(arguments: Sequence[str]) -> None:
    """Writes an ONNX file, and prints the shape of its input."""
    parser = Parser("export_onnx.py", _DESCRIPTION)
    add_checkpoint(parser)
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="FILE", help="the ONNX file to write")
    size = "height and width of the images; default: 512 512"
    add("--size", nargs=2, type=int, default=(512, 512), metavar=("H", "W"), help=size)
    dynamic = "allow any number of images of any size, if the network does"
    add("--dynamic", action="store_true", help=dynamic)
    add("--half", action="store_true", help="round weights to fp16: a file of half the size")
    options = parser.parse_args(arguments)
    segmenter = load_segmenter(options)
    from pipeline.exchange.model_card import write_card  # takes seconds to import
    from pipeline.segmenter.export import export_onnx

    card, title = options.output.with_name("README.md"), f"\n# {options.output.name}\n"
    if card.is_file() and title.encode() not in card.read_bytes():  # it describes something else
        card = options.output.with_suffix(".md")
    output = OwnFiles(options.output.parent, "export_onnx.py")
    output.refuse_foreign([card])
    how = {"dynamic": options.dynamic, "half": options.half}
    shape = export_onnx(segmenter, options.output, *options.size, **how)
    text = write_card(options.output.name, segmenter, shape, options.checkpoint, options.best)
    output.write(card, text)
    if options.dynamic and None not in shape:
        tell("note: the graph of this network works for a single size, so --size was kept")
    sides = "N×3×H×W" if shape.height is None else f"N×3×{shape.height}×{shape.width}"
    sides = sides if shape.batch is None else sides.replace("N", str(shape.batch))
    print(f"image {sides} → logits, labels of {len(segmenter.class_names)} classes")
    print(f"written to {options.output}, and described in {card}")
