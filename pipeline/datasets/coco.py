"""The instances of COCO 2014 and 2017, in the layout of the download."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.ground_truth import InstanceMask
from pipeline.datasets.layout import find_root, find_splits, first_existing
from pipeline.datasets.settings import BenchmarkSettings, CocoSettings
from pipeline.datasets.vocabulary import Vocabulary, annotated_names, build_vocabulary, same_name
from pipeline.engine.sample import Dataset, Sample
from pipeline.errors import UserError, shown

_MAX_SIDE = 1 << 15  # pixels; a damaged file may claim more than fits into memory

ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Names of the published methods → the names of COCO's categories."""


def load_coco(settings: CocoSettings) -> Dataset[Vocabulary]:
    """Reads the splits of COCO from its instance annotations.

    ``splits`` gives the names of the image folders, which are also those of the annotation files;
    the categories of the annotations have the names of ``classes``, or :data:`ALIASES` for them.
    """
    vocabulary = build_vocabulary(settings)
    names = annotated_names(settings.annotated_as, vocabulary)
    root = find_root(settings)

    def read(path: Path) -> list[Sample]:
        images = image_folder(settings, root, path.stem.removeprefix("instances_"))
        samples = _read_instances(path, images, names, settings.max_pixels)
        return [s for s in samples if s.labels or not settings.only_annotated]

    annotations = root / "annotations"
    splits = find_splits(settings, annotations, lambda name: [f"instances_{name}.json"], read)
    return Dataset(vocabulary, splits, settings.train_split)


def image_folder(settings: BenchmarkSettings, root: Path, name: str) -> Path:
    """Returns the image folder of a split, in any of the usual places below COCO's folder."""
    return first_existing(settings, root, [name, f"images/{name}", f"JPEGImages/{name}"])


def _read_instances(
    path: Path, images: Path, names: Sequence[str], max_pixels: int
) -> list[Sample]:
    from pycocotools.coco import COCO

    def canonical(name: str) -> str:
        return ALIASES.get(same_name(name), same_name(name))

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            coco = COCO(str(path))
        categories = {i: coco.cats[i]["name"] for i in coco.getCatIds()}
        if coco.imgs and not categories:
            raise ValueError("annotations without categories")
        # Category id → label, by the names of classes and categories.
        own = {canonical(name): k + 1 for k, name in enumerate(names)}
        labels = {category: own.get(canonical(name)) for category, name in categories.items()}
        without = [categories[category] for category, label in labels.items() if label is None]
        unused = [name for k, name in enumerate(names) if k + 1 not in labels.values()]
        if without or unused or len(labels) > len(names):
            lacks = f"has no category {shown(unused[0])}" if unused else "names one class twice"
            if without:
                lacks = f"names {shown(without[0])}, which is not one of the classes"
            raise UserError(
                f"{path} {lacks}: give the annotations of the instances, or the names of their"
                f" {len(labels)} categories as dataset.annotated_as, in the order of the classes"
            )
        samples = []
        for number in sorted(coco.getImgIds()):
            name, height, width = described(coco.imgs[number])
            image_id, annotations = name.with_suffix("").as_posix(), coco.imgToAnns.get(number, ())
            # Smaller objects cover larger ones, as a cup on a table; crowds are below all others.
            drawn = sorted(annotations, key=lambda a: (not a.get("iscrowd"), -a["area"]))
            instances = tuple((labels[a["category_id"]], a["segmentation"]) for a in drawn)
            mask = InstanceMask(image_id, height, width, instances, max_pixels, path)
            classes = tuple(sorted({label - 1 for label, _ in instances}))
            samples.append(Sample(image_id, images / name, mask, classes))
    except UserError:
        raise
    except Exception as error:  # other JSON and damage raise nearly anything
        raise UserError(f"{path} is not an annotation file of COCO: download it again") from error
    if len({s.id for s in samples}) < len(samples):
        raise UserError(f"{path} gives two images the same name: download it again")
    return samples


def described(record: Mapping[str, Any]) -> tuple[Path, int, int]:
    """Returns name, height and width of an image in a JSON file; a ValueError if one is wrong."""
    name, height, width = Path(record["file_name"]), record["height"], record["width"]
    if not all(isinstance(n, int) and 0 < n <= _MAX_SIDE for n in (height, width)):
        raise ValueError(f"an image of {width}×{height} pixels")
    if name.is_absolute() or ".." in name.parts or not name.stem or "\0" in str(name):
        raise ValueError(f"{name} is not the name of an image below its folder")
    return name, height, width
