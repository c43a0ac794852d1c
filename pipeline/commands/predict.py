"""The command line of ``tools/predict.py``."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np
from PIL import Image

from pipeline.clip.device import choose_device
from pipeline.commands.command_line import Parser
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.progress import track
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import write_atomically
from pipeline.files.images import encode_png
from pipeline.report.painting import overlay
from pipeline.segmenter.inference import CLEAN_CRF, check_scales
from pipeline.segmenter.inputs import find_inputs
from pipeline.segmenter.testing import Testing, segment_all
from pipeline.sweep import read_through

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

_EXAMPLES = """examples:
  python tools/predict.py --checkpoint outputs/folder/segmenter/latest PHOTOS
      PHOTOS/a/b.jpg gives predictions/a/b.png, a PNG whose values are labels and whose palette has
      the colours of the classes, and predictions/a/b_overlay.jpg, a picture to look at
  python tools/predict.py --checkpoint iter_20000.pth one.jpg two.png --output seen --crf
      regions end at edges of the photograph
  python tools/predict.py --checkpoint DIR PHOTOS --scales 0.5 0.75 1 1.25 1.5 1.75 --flip
      the mean of six sizes and their mirror images, as results are often published: twelve times
      the time

Results are named by the path below the folder that was given, or by the file's name; where two
would be the same, that of the later one ends in _2. What cannot be read is left out and named, and
the exit code is 2.
"""
_MOST_AHEAD = 2  # photographs that are decoded ahead of the network
_MOST_PROCESSES = 16  # each holds PyTorch and several photographs' probabilities
_QUALITY = 92  # of JPEG


def run(arguments: Sequence[str]) -> None:
    """Segments the images that the arguments name, and writes labels and overlays.

    Args:
        arguments: those of the command line, without the program's name.

    Raises:
        UserError: something that the user can fix, or images that were left out.
    """
    options = _parse(arguments)
    check_scales(options.scales)
    if not 0 <= options.opacity <= 1:
        raise UserError(f"--opacity {options.opacity:g} is not between 0 and 1: give 0.5")
    for name in ("longest_side", "max_pixels"):
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(options, name)} is no size: give pixels above 0")
    inputs = find_inputs(options.images, options.output)
    for text in inputs.remarks:
        _say(f"note: {text}")
    for text in inputs.problems:
        _say(f"left out: {text}")
    if not inputs.samples:
        raise UserError("there is nothing to segment: name images, or folders that hold some")
    try:
        device = choose_device(options.device)
    except UserError as error:
        raise UserError(str(error).replace("runtime.device=", "--device ")) from error
    # mmsegmentation takes seconds to import.
    from pipeline.segmenter.predict import Segmenter

    which = "best" if options.best else "last"
    segmenter = Segmenter.from_run(_run_folder(options.checkpoint), device, which)
    written = _segment(segmenter, inputs.samples, options)
    shown = [f"labels in {options.output / '<name>.png'}"]
    if not options.no_overlay:
        shown.append(f"overlays in {options.output / '<name>_overlay.jpg'}")
    print(f"{written} image{'s' * (written != 1)} segmented: {', '.join(shown)}")
    total = len(inputs.samples) + len(inputs.problems)
    if written < total:
        raise UserError(
            f"{total - written} of {total} could not be segmented: mend, or do not name, what is"
            " left out above"
        )


def _segment(segmenter: Segmenter, samples: Sequence[Sample], options: Namespace) -> int:
    """Segments images as the stage ``predict`` does, and returns how many could be read."""
    read = ImageReader(
        apply_exif=True, max_pixels=options.max_pixels, longest_side=options.longest_side
    )
    testing = Testing(tuple(options.scales), options.flip, CLEAN_CRF if options.crf else None)
    images: dict[str, np.ndarray] = {}  # those that are on their way

    def found() -> Iterator[tuple[Sample, tuple[np.ndarray, tuple[int, int]] | ImageError]]:
        for sample, result in read_through(samples, read, lambda images: images, _MOST_AHEAD):
            if not isinstance(result, ImageError):
                images[sample.id] = result[0]
            yield sample, result

    # Starting processes takes longer than a few images.
    workers = min(joblib.cpu_count(), len(samples) // 2, _MOST_PROCESSES)
    written = 0
    with track("predict", len(samples)) as advance:
        for sample, result in segment_all(found(), lambda: segmenter, testing, workers):
            if isinstance(result, ImageError):
                reason = str(result).replace("dataset.max_pixels=", "--max-pixels ")
                _say(f"left out: {sample.image} {reason}")
            else:
                labels = result[testing.steps[-1]]
                _write(sample.id, images.pop(sample.id), labels, segmenter, options)
                written += 1
            advance()
    return written


def _write(
    name: str, image: np.ndarray, labels: np.ndarray, segmenter: Segmenter, options: Namespace
) -> None:
    palette = segmenter.palette
    write_atomically(options.output / f"{name}.png", encode_png(labels, palette))
    if options.no_overlay:
        return
    picture = overlay(image, labels, segmenter.class_names, palette, options.opacity)
    buffer = io.BytesIO()
    # Full resolution for colours, or outlines would be blurred.
    Image.fromarray(picture).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    write_atomically(options.output / f"{name}_overlay.jpg", buffer.getvalue())


def _run_folder(path: Path) -> Path:
    """Returns the segmenter's folder where that of a whole run was given."""
    inner = path / "segmenter" / "latest"
    return inner if inner.is_dir() else path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser(
        "predict.py",
        "Segments images with a trained segmenter: palette PNG and overlay.",
        _EXAMPLES,
    )
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="files, or folders at any depth"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="C",
        help="a file of stage=train, or the folder that holds it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="where to write; predictions/ unless given",
    )
    parser.add_argument("--crf", action="store_true", help="sharpen regions with a dense CRF")
    parser.add_argument(
        "--scales", nargs="+", default=["1"], metavar="S", help="average over these sizes; 1"
    )
    parser.add_argument("--flip", action="store_true", help="average over the mirror image too")
    parser.add_argument(
        "--longest-side",
        type=int,
        default=1024,
        metavar="N",
        help="larger images are shrunk to this for the network, 1024; labels keep the full size",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=105_000_000,
        metavar="N",
        help="larger files are left out, so that none exhausts the memory",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--best", action="store_true", help="of a folder, the checkpoint with the highest mIoU"
    )
    parser.add_argument("--no-overlay", action="store_true", help="labels alone")
    parser.add_argument(
        "--opacity", type=float, default=0.5, metavar="A", help="of the overlay, from 0 to 1; 0.5"
    )
    options = parser.parse_args(arguments)
    # argparse gives an option of several values everything up to the next option.
    numbers = [text for text in options.scales if _is_number(text)]
    options.images += [Path(text) for text in options.scales if not _is_number(text)]
    options.scales = [float(text) for text in numbers]
    return options


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
