"""Pascal Context: 59 classes on the images of VOC 2010, as PNGs or as the JSON behind them."""

import json
from functools import cache, partial
from pathlib import Path

from pipeline.datasets.coco import described
from pipeline.datasets.ground_truth import InstanceMask
from pipeline.datasets.settings import ContextSettings
from pipeline.datasets.voc import find_devkit, load_voc
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.engine.sample import Dataset, Sample, Splits
from pipeline.errors import UserError
from pipeline.files.text import given_path

_CATEGORIES = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105),
    *(113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308),
    *(324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454),
    458,
)
"""Label in PNGs of mmsegmentation's converter → category in the JSON, one of 459 by alphabet."""


def find_annotations(settings: ContextSettings) -> Path | None:
    """Returns the JSON of the masks, which may be missing; none where there are PNGs instead.

    By default the file is beside the images. Raises a UserError if there are no images.
    """
    if settings.annotations is not None:
        return given_path(settings.annotations, "dataset.annotations").absolute()
    root = find_devkit(settings)
    has_masks = any((root / folder).is_dir() for folder in settings.mask_folders)
    return None if has_masks else root / "trainval_merged.json"


def load_context(settings: ContextSettings) -> Dataset[Vocabulary]:
    """Reads the splits of Pascal Context; those of the JSON are its phases, "train" and "val"."""
    if (path := find_annotations(settings)) is None:
        return load_voc(settings, expected=True)
    vocabulary, images = build_vocabulary(settings), find_devkit(settings) / "JPEGImages"
    labels = {c: label for label, c in enumerate(_CATEGORIES[: len(vocabulary.classes) + 1])}
    read = cache(partial(_read, path, images, labels, settings.max_pixels))

    def samples_of(phase: str) -> list[Sample]:
        if phase not in read():
            raise UserError(f"{path} has no image of phase {phase}: give trainval_merged.json")
        return read()[phase]

    splits = {name: partial(samples_of, phase) for name, phase in settings.splits.items()}
    return Dataset(vocabulary, Splits(splits), settings.train_split)


def _read(path: Path, folder: Path, labels: dict, max_pixels: int) -> dict[str, list[Sample]]:
    """Returns the images of each phase, by their names."""
    phases: dict[str, list[Sample]] = {}
    try:
        content = json.loads(path.read_bytes())
        images, annotations = content["images"], content["annos_segmentation"]
        names = [{"file_name": Path(each["file_name"]).stem} for each in images]
        for key, entries in (("image_id", images), ("file_name", names), ("id", annotations)):
            # Of two, the released converter lets the second replace the first.
            if len({each[key] for each in entries}) < len(entries):
                raise UserError(f"{path} holds one {key} twice: download it again")
        shapes: dict[int, list[tuple]] = {each["image_id"]: [] for each in images}
        for each in annotations:  # a later one is painted over those before it
            if (category := each["category_id"]) not in labels:
                raise UserError(
                    f"{path} has category {category!r}, not one of {len(labels) - 1} classes: give"
                    " trainval_merged.json, and all 59 classes"
                )
            shapes[each["image_id"]].append((labels[category], each["segmentation"]))
        for record in sorted(images, key=lambda each: each["file_name"]):
            (name, *size), drawn = described(record), tuple(shapes[record["image_id"]])
            mask = InstanceMask(name.stem, *size, drawn, max_pixels, path)
            phases.setdefault(record["phase"], []).append(Sample(name.stem, folder / name, mask))
    except OSError as error:
        raise UserError(
            f"{path}, the masks, cannot be read ({error.strerror}): download.py fetches it"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not Pascal Context's JSON: download it again") from error
    return phases
