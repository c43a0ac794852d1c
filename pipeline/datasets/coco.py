"""COCO 2014 and 2017 (instances) and COCO-Stuff (pixel maps), in the layout of the download."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.datasets.ground_truth import InstanceMask
from pipeline.datasets.label_maps import read_label_maps
from pipeline.datasets.layout import existing_folder, first_existing, require_splits
from pipeline.datasets.lists import value_table
from pipeline.datasets.settings import SELECTION, BenchmarkSettings, LabelMapSettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Dataset, Sample, Splits
from pipeline.engine.settings import setting
from pipeline.errors import UserError

_MAX_SIDE = 1 << 15
"""The longest side of an image in pixels. A damaged file may claim more than fits into memory."""

_PIXEL_MAPS = ("stuffthingmaps", "annotations")
"""Names of the folder of COCO-Stuff's pixel maps, in the order in which they are tried."""


@dataclass(kw_only=True)
class CocoSettings(BenchmarkSettings):
    """COCO 2014 and 2017.

    Attributes:
        only_annotated: whether images without an instance are left out, as in the lists of the
            published methods.
    """

    only_annotated: bool = setting(True, changes="images", why=SELECTION)


def load_coco(settings: CocoSettings) -> Dataset:
    """Reads the splits of COCO from its instance annotations.

    Args:
        settings: ``splits`` gives the names of the image folders, which are also those of the
            annotation files; ``classes`` are in the order of COCO's category ids.

    Raises:
        UserError: the layout differs; the message gives what was expected and what is there.
    """
    vocabulary = build_vocabulary(settings)
    root = existing_folder(settings.root, "root", settings.guide)
    places = {split: f"instances_{name}.json" for split, name in settings.splits.items()}
    readers = {
        split: partial(_read_instances, root, name, len(vocabulary.classes), settings)
        for split, name in settings.splits.items()
        if (root / "annotations" / places[split]).is_file()
    }
    require_splits(settings, readers, root / "annotations", places)
    return Dataset(vocabulary, Splits(readers), settings.train_split)


def _image_folder(root: Path, name: str, guide: str) -> Path:
    return first_existing(root, [name, f"images/{name}", f"JPEGImages/{name}"], guide)


def _read_instances(
    root: Path, name: str, num_classes: int, settings: CocoSettings
) -> list[Sample]:
    from pycocotools.coco import COCO

    path = root / "annotations" / f"instances_{name}.json"
    images, kept = _image_folder(root, name, settings.guide), Path(settings.cache) / name
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            coco = COCO(str(path))
        categories = sorted(coco.getCatIds())
        indices = {category: k for k, category in enumerate(categories)}
        samples = [
            _sample(coco.imgs[i], coco.imgToAnns.get(i, ()), indices, images, kept)
            for i in sorted(coco.getImgIds())
        ]
    except Exception as error:  # pycocotools raises many types on other JSON
        raise UserError(f"{path} is not an annotation file of COCO: download it again") from error
    if len(categories) != num_classes:
        raise UserError(
            f"{path} has {len(categories)} categories and dataset.classes {num_classes}: give the"
            " annotations of the instances"
        )
    if len({s.id for s in samples}) < len(samples):
        raise UserError(f"{path} gives two images the same name: download it again")
    return [s for s in samples if s.labels or not settings.only_annotated]


def _sample(
    record: Mapping[str, Any],
    annotations: Iterable[Mapping[str, Any]],
    indices: Mapping[int, int],
    images: Path,
    kept: Path,
) -> Sample:
    height, width = record["height"], record["width"]
    if not all(isinstance(n, int) and 0 < n <= _MAX_SIDE for n in (height, width)):
        raise ValueError(f"an image of {width}×{height} pixels")
    annotations = list(annotations)
    if not all(isinstance(a["area"], int | float) for a in annotations):
        raise ValueError("an area that is not a number")
    instances = tuple(
        (indices[a["category_id"]] + 1, bool(a.get("iscrowd")), a["area"], a["segmentation"])
        for a in annotations
    )
    image = images / _plain_name(record["file_name"])
    labels = tuple(sorted({label - 1 for label, *_ in instances}))
    mask = InstanceMask(kept / f"{image.stem}.png", height, width, instances)
    return Sample(image.stem, image, mask, labels)


def _plain_name(name: str) -> str:
    """Returns an image's path below its folder.

    Raises:
        ValueError: it leads out of the folder, or is not a path.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.stem or "\0" in name:
        raise ValueError(f"{name!r} is not the name of an image")
    return name


def load_cocostuff(settings: LabelMapSettings) -> Dataset:
    """Reads the splits of COCO-Stuff from its pixel maps.

    Args:
        settings: ``splits`` gives the names of the image folders, which are also those of the pixel
            maps.

    Raises:
        UserError: the layout differs; the message gives what was expected and what is there.
    """
    vocabulary = build_vocabulary(settings)
    root = existing_folder(settings.root, "root", settings.guide)
    table = value_table(settings.values, vocabulary.classes)
    readers = {}
    for split, name in settings.splits.items():
        candidates = [root / folder / name for folder in _PIXEL_MAPS]
        maps = next((folder for folder in candidates if folder.is_dir()), None)
        if maps is not None:
            readers[split] = partial(_read_pixel_maps, root, maps, table, settings)
    places = {split: f"{_PIXEL_MAPS[0]}/{name}" for split, name in settings.splits.items()}
    require_splits(settings, readers, root, places)
    return Dataset(vocabulary, Splits(readers), settings.train_split)


def _read_pixel_maps(
    root: Path, maps: Path, table: tuple, settings: LabelMapSettings
) -> list[Sample]:
    images = _image_folder(root, maps.name, settings.guide)
    return read_label_maps(maps, images, Path(settings.cache) / maps.name, table)
