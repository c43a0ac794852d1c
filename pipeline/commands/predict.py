"""The command line of ``tools/predict.py``."""

from __future__ import annotations

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np

from pipeline.clip.device import choose_device
from pipeline.commands.command_line import Parser, add_checkpoint, fraction, load_segmenter
from pipeline.commands.inputs import find_inputs
from pipeline.datasets.settings import CrfOptions
from pipeline.engine.progress import say, track
from pipeline.engine.run import allowed_failures
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.stage import Decoded, Item
from pipeline.engine.workers import go_through
from pipeline.errors import ImageError, UserError, tell
from pipeline.files.images import encode, encode_png
from pipeline.files.own_files import OwnFiles
from pipeline.report.page.painting import overlay
from pipeline.segmenter.limits import USUAL_SIDE
from pipeline.segmenter.multi_scale import LabelMaps, segment_all
from pipeline.segmenter.settings import TestSettings, check_scales

if TYPE_CHECKING:
    from pipeline.segmenter.predict import Segmenter

_LABELS, _OVERLAY = ".png", "_overlay.jpg"  # added to a name
_CRF = CrfOptions(min_probability=0.1)  # as of photographs, where the run had none
_MAX_PROCESSES = 16  # each holds PyTorch and the probabilities of several images
_JPEG = {"quality": 92, "subsampling": 0}  # chroma subsampling would blur the outlines


def run(arguments: Sequence[str]) -> None:
    """Segments images, and writes labels and overlays."""
    options = _parse(arguments)
    check_scales(options.scales)
    sizes = {"--longest-side": options.longest_side, "--max-pixels": options.max_pixels}
    for option, pixels in sizes.items():
        if pixels is not None and pixels < 1:
            raise UserError(f"{option} {pixels} is not a size: give pixels above 0")
    if options.max_failures is not None and not options.max_failures >= 0:
        raise UserError(f"--max-failures {options.max_failures} is not a number: give 0 or more")
    endings = [_LABELS] if options.no_overlay else [_LABELS, _OVERLAY]
    inputs = find_inputs(options.images, options.output, endings)
    for text in inputs.remarks:
        tell(f"note: {text}")
    for text in [*inputs.problems, *inputs.left_out]:
        tell(f"skipped: {text}")
    if not inputs.samples:
        raise UserError("there is nothing to segment: give images, or folders of images")
    try:
        device = choose_device(options.device)
    except UserError as error:
        raise UserError(str(error).replace("runtime.device=", "--device ")) from error
    output = OwnFiles(options.output, "predict.py")
    output.refuse_foreign(options.output / f"{s.id}{e}" for s in inputs.samples for e in endings)
    written = _segment(load_segmenter(options, device), inputs.samples, output, options)
    kinds = zip(("labels", "overlays"), endings)
    shown = ", ".join(f"{kind} in {options.output / f'<name>{end}'}" for kind, end in kinds)
    print(f"{written} {'image' if written == 1 else 'images'} segmented: {shown}")
    total = len(inputs.samples) + len(inputs.problems) + len(inputs.left_out)
    if inputs.problems or total - written > allowed_failures(options.max_failures, total):
        raise UserError(
            f"{total - written} of {total} could not be segmented: repair or leave out those that"
            " are listed above as skipped"
        )


def _segment(
    segmenter: Segmenter, samples: Sequence[Sample], output: OwnFiles, options: Namespace
) -> int:
    """Segments images as the stage ``predict`` does, and returns the number of those written."""
    limits = segmenter.network.limits.for_photographs(options.longest_side)
    segmenter.network.limits = limits
    reader = ImageReader(True, options.max_pixels, limits.longest_side)
    crf = segmenter.crf if options.crf is None else options.crf and (segmenter.crf or _CRF)
    test = TestSettings(options.scales, options.flip, crf or None)
    # Starting processes takes longer than a few images.
    workers = min(joblib.cpu_count(), len(samples) // 2, _MAX_PROCESSES)
    images: dict[str, np.ndarray] = {}  # being segmented

    def segment(decoded: Decoded) -> Iterator[tuple[Item, LabelMaps | ImageError]]:
        kept = ((item, images.setdefault(item.sample.id, image)) for item, image in decoded)
        return segment_all(kept, segmenter, test, workers)

    written, items = 0, (Item(sample, "") for sample in samples)
    with track("predict", len(samples)) as advance:
        say("first image")
        for item, labels in go_through(items, reader, segment, "the segmenter"):
            name = item.sample.id
            image = images.pop(name, None)  # none where it could not be decoded
            if isinstance(labels, ImageError):
                reason = str(labels).replace("dataset.max_pixels=", "--max-pixels ")
                tell(f"skipped: {item.sample.image} {reason}")
            else:
                final, path = labels[test.steps[-1]], options.output / name
                output.write(Path(f"{path}{_LABELS}"), encode_png(final, segmenter.palette))
                if not options.no_overlay:
                    look = segmenter.class_names, segmenter.palette, options.opacity
                    picture = overlay(image, final, *look)
                    output.write(Path(f"{path}{_OVERLAY}"), encode(picture, "JPEG", **_JPEG))
                written += 1
            advance()
    return written


def _parse(arguments: Sequence[str]) -> Namespace:
    title = "Segments images with a trained segmenter, into palette PNGs and overlays."
    parser = Parser("predict.py", title)
    add = parser.add_argument
    images = "image files, or folders with all their subfolders"
    add("images", nargs="*", type=Path, metavar="IMAGE", help=images)
    add_checkpoint(parser)
    output = "folder of the results; default: predictions"
    add("--output", type=Path, default=Path("predictions"), metavar="DIR", help=output)
    crf = "refine regions with the dense CRF, or do not; default: as in the run that trained it"
    add("--crf", action=BooleanOptionalAction, help=crf)
    scales = "factors of the image size to average over; default: 1"
    add("--scales", nargs="+", default=["1"], metavar="S", help=scales)
    add("--flip", action="store_true", help="average over the mirror image too")
    side = "shrink larger images to N pixels for the network; labels keep full size"
    default = f"default: as in its training, or {USUAL_SIDE} if that had no limit"
    add("--longest-side", type=int, metavar="N", help=f"{side}; {default}")
    pixels = "skip images of more than N pixels, which could exhaust the memory"
    add("--max-pixels", type=int, default=105_000_000, metavar="N", help=pixels)
    failures = "exit with 2 if more than N images are skipped; default: 10 or 1%%, the larger"
    add("--max-failures", type=float, metavar="N", help=failures)
    device = "auto (the default) takes a GPU if there is one"
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help=device)
    add("--no-overlay", action="store_true", help="write no overlays, only labels")
    opacity = "opacity of the overlay, from 0 to 1; default: 0.5"
    add("--opacity", type=fraction, default=0.5, metavar="A", help=opacity)
    options = parser.parse_args(arguments)
    given, options.scales = options.scales, []
    for text in given:
        try:
            options.scales.append(float(text))
        except ValueError:  # argparse takes everything up to the next option as values of --scales
            options.images.append(Path(text))
    return options
