"""Data sets whose masks hold a value for each class: COCO-Stuff, ADE20K, Cityscapes, …"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.datasets.annotations import LabelImage
from pipeline.datasets.coco import image_folder
from pipeline.datasets.ground_truth import AnnotatedMask
from pipeline.datasets.layout import find_root, find_splits, first_existing, how_to_get
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.settings import LabelMapSettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.engine.progress import note
from pipeline.engine.sample import Dataset, Sample
from pipeline.errors import UserError
from pipeline.files.label_images import IGNORE


def load_cocostuff(settings: LabelMapSettings) -> Dataset[Vocabulary]:
    """Reads the splits of COCO-Stuff, the images of COCO 2017 with pixel maps, or of COCO-Object.

    ``splits`` gives the names of the image folders, which are also those of the pixel maps.
    """
    root = find_root(settings)
    folders = ["stuffthingmaps", "annotations"]
    return _load(settings, root, folders, partial(image_folder, settings, root))


def load_ade20k(settings: LabelMapSettings) -> Dataset[Vocabulary]:
    """Reads the splits of ADEChallengeData2016, ADE20K's scene parsing benchmark (150 classes).

    ``root`` is the folder that holds ``images`` and ``annotations``, or its parent; ``splits``
    gives the names of their subfolders. In ``values``, 0 ("other") is omitted.
    """
    root = find_root(settings, "root", "annotations", ["ADEChallengeData2016"])
    images = root / "images"
    return _load(settings, root, ["annotations"], lambda n: first_existing(settings, images, [n]))


def load_cityscapes(settings: LabelMapSettings) -> Dataset[Vocabulary]:
    """Reads the splits of Cityscapes: ``leftImg8bit/<split>/<city>`` and labelIds in ``gtFine``.

    An image is named by its path below the split. Images of "test" have no ground truth.
    """
    root = find_root(settings, "root", "leftImg8bit")
    vocabulary = build_vocabulary(settings)
    reading = _reading(settings, vocabulary)

    def read(folder: Path) -> list[Sample]:
        samples = []
        for city in sorted(path for path in folder.glob("*") if path.is_dir()):
            if not (images := sorted(city.glob("*_leftImg8bit.png"))):
                note(f"{city} holds no image ending in _leftImg8bit.png")
            for image in images:
                name = f"{city.name}/{image.stem}"
                label_ids = f"{name.removesuffix('leftImg8bit')}gtFine_labelIds.png"
                path = root / "gtFine" / folder.name / label_ids
                mask = AnnotatedMask(name, LabelImage(path, reading))
                samples.append(Sample(name, image, None if folder.name == "test" else mask))
        if not samples:
            raise UserError(f"{folder} holds no city with images: {how_to_get(settings.guide)}")
        return samples

    splits = find_splits(settings, root / "leftImg8bit", lambda name: [name], read)
    return Dataset(vocabulary, splits, settings.train_split)


def _reading(settings: LabelMapSettings, vocabulary: Vocabulary) -> Reading:
    other = 0 if settings.other_values == "background" else IGNORE
    reading = Reading.of(settings, "dataset", vocabulary.classes)
    return replace(reading, other=other, colours={})  # coloured PNGs are refused


def _load(
    settings: LabelMapSettings,
    root: Path,
    map_folders: Sequence[str],
    images_of: Callable[[str], Path],
) -> Dataset[Vocabulary]:
    """Reads the splits that one of the map folders holds: ``<split>/<id>.png``, and its images."""
    vocabulary = build_vocabulary(settings)
    reading = _reading(settings, vocabulary)

    def read(maps: Path) -> list[Sample]:
        images = images_of(maps.name)
        # mmsegmentation's converter of COCO-Stuff leaves files of its own among the maps.
        paths = sorted(p for p in maps.glob("*.png") if not p.stem.endswith("_labelTrainIds"))
        masks = {path.stem: AnnotatedMask(path.stem, LabelImage(path, reading)) for path in paths}
        return [Sample(name, images / f"{name}.jpg", mask) for name, mask in masks.items()]

    splits = find_splits(settings, root, lambda n: [f"{each}/{n}" for each in map_folders], read)
    return Dataset(vocabulary, splits, settings.train_split)
