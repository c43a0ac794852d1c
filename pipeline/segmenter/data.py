"""The images and masks that a segmenter is trained on, and checks of both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from pipeline.engine.sample import ImageReader, Images, Sample
from pipeline.engine.scan import available, open_folder
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError, command
from pipeline.files.fingerprints import fingerprint, fingerprint_file, fingerprint_image
from pipeline.files.images import FORMATS, open_image
from pipeline.files.label_images import GREY, IGNORE, PALETTE, read_labels, refuse_brush_masks
from pipeline.files.text import given_path
from pipeline.masks.labels import PROBABILITY

_ORIENTATION = ExifTags.Base.Orientation
_ROTATED_BY_90 = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class TrainingPair:
    """An image with the mask that it is trained on.

    Attributes:
        id: unique name of the image.
        image: any file that ``pipeline.files.images.load_image`` reads.
        mask: indexed or grey PNG of the image's size; 0 background, k+1 class k, 255 ignore.
        probability: 8-bit grey PNG of the image's size: 255 times the weight in [0, 1] of each
            pixel. None gives all pixels the same weight.
    """

    id: str
    image: Path
    mask: Path
    probability: Path | None = None


@dataclass(frozen=True)
class TrainingData:
    """The sources of the images and masks of a training.

    Attributes:
        samples: returns the images.
        pairs: returns them, each with its mask; raises a UserError where there are no masks yet, or
            no probabilities that pixels could be weighted by.
        facts: what names the source in a cache key, where it is not a stage.
        applies: tells whether the data set has such masks.
    """

    samples: Callable[[], Sequence[Sample]]
    pairs: Callable[[], list[TrainingPair]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    applies: Callable[[], bool] = lambda: True


def masks_of_stage(masks: Stage, images: Images, store: Store, weighted: bool) -> TrainingData:
    """Returns the masks of a stage; the probabilities beside them may weight their pixels."""

    def samples() -> list[Sample]:
        return available(masks, images, store)

    def pairs() -> list[TrainingPair]:
        if weighted and not masks.settings["keep_probability"]:
            raise _no_probabilities()
        folder = open_folder(masks, store).path

        def pair(sample: Sample) -> TrainingPair:
            name = f"{sample.id}.png"
            probability = folder / PROBABILITY / name if weighted else None
            return TrainingPair(sample.id, sample.image, folder / name, probability)

        return [pair(sample) for sample in samples()]

    return TrainingData(samples, pairs)


def masks_in_folder(
    given: str, samples: Callable[[], Sequence[Sample]], weighted: bool
) -> TrainingData:
    """Returns the masks <id>.png of a folder: ``segmenter.masks``. They have no probabilities."""

    def pairs() -> list[TrainingPair]:
        if weighted:
            raise _no_probabilities()
        folder = given_path(given, "segmenter.masks").absolute()
        if not folder.is_dir():
            raise UserError(
                f"segmenter.masks={given} is not a folder: give one that holds <id>.png"
            )
        found = [TrainingPair(s.id, s.image, folder / f"{s.id}.png") for s in samples()]
        remedy = f"{command('import_masks')} --values 255=1 makes it class 1"
        refuse_brush_masks((pair.mask for pair in found), f"segmenter.masks={given}", remedy)
        return found

    return TrainingData(samples, pairs, facts={"masks": {"from": "files"}})


def ground_truth_masks(samples: Callable[[], Sequence[Sample]]) -> TrainingData:
    """Returns the masks of the data set, for a fully supervised segmenter."""
    return TrainingData(
        samples,
        lambda: [TrainingPair(s.id, s.image, s.mask.file()) for s in samples()],
        facts={"masks": "ground truth", "pixel_weights": None},  # it is certain of every pixel
        applies=lambda: all(s.mask is not None for s in samples()),
    )


def training_data_key(pairs: Sequence[TrainingPair]) -> str:
    """Returns the fingerprint of the contents of all files that a training reads."""

    def content(path: Path, read: Callable[[Path], str] = fingerprint_file) -> str | None:
        # Missing files are listed, all of them, before the training begins.
        return read(path) if path.is_file() else None

    return fingerprint(
        [
            [
                pair.id,
                content(pair.image, fingerprint_image),
                *(content(path) for path in (pair.mask, pair.probability) if path),
            ]
            for pair in pairs
        ]
    )


def _no_probabilities() -> UserError:
    return UserError(
        "segmenter.pixel_weights needs the CRF's probabilities: make the masks with"
        " masks=crf_weighted"
    )


def check_pairs(
    pairs: Sequence[TrainingPair],
    num_classes: int,
    decode: ImageReader = ImageReader(),  # noqa: B008
) -> list[str]:
    """Finds everything that would end or spoil a training; decodes masks but not images.

    Args:
        pairs: the pairs to check.
        num_classes: n classes without the background; labels 0 to n and 255 are allowed.
        decode: what will decode the images: its ``max_pixels`` holds for masks, too.

    Returns:
        One sentence for each problem, beginning with the id.
    """
    return [
        f"{pair.id}: {problem}"
        for pair in pairs
        for problem in _problems(pair, num_classes, decode)
    ]


def _problems(pair: TrainingPair, num_classes: int, decode: ImageReader) -> Iterator[str]:
    size, limit = None, decode.max_pixels
    if not pair.image.is_file():
        yield f"image {pair.image} is missing"
    else:
        try:
            with open_image(pair.image, FORMATS, limit) as image:
                size = image.size
                # A PNG is decoded to find its orientation.
                if decode.apply_exif and image.getexif().get(_ORIENTATION) in _ROTATED_BY_90:
                    size = image.size[::-1]
        except ImageError as error:
            yield f"image {pair.image} {error}"
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            yield f"image {pair.image} cannot be read ({type(error).__name__})"

    files = [("mask", pair.mask, (PALETTE, GREY)), ("probability", pair.probability, (GREY,))]
    for kind, path, modes in files:
        if path is None:
            continue
        try:
            pixels = read_labels(path, modes, limit)
        except FileNotFoundError:
            yield f"{kind} {path} is missing"
            continue
        except UserError as error:
            yield f"{kind} {error}"
            continue
        if size is not None and pixels.shape != size[::-1]:
            height, width = pixels.shape
            yield f"{kind} is {width}×{height}, its image {size[0]}×{size[1]} pixels"
        present = np.unique(pixels).tolist() if kind == "mask" else []
        if wrong := [label for label in present if num_classes < label != IGNORE]:
            yield f"mask has labels {wrong} outside 0 to {num_classes} and 255"
