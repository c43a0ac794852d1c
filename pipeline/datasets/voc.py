"""PASCAL VOC 2007 and 2012 in the layout of the devkit, read as it is."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets.ground_truth import GroundTruthMask, MaskFile, MatlabMask
from pipeline.datasets.layout import (
    existing_folder,
    find_root,
    first_existing,
    guide_line,
    read_lines,
    require_splits,
)
from pipeline.datasets.settings import GROUND_TRUTH, SELECTION, BenchmarkSettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Dataset, Labels, Sample, Splits
from pipeline.engine.settings import setting
from pipeline.errors import UserError


@dataclass(kw_only=True)
class VocSettings(BenchmarkSettings):
    """PASCAL VOC.

    Attributes:
        devkit: the name of the folder that holds ``JPEGImages``, as distributed.
        image_set: the folder of the lists, "Segmentation" or "Main".
        mask_folders: the folders of masks; the first that has an image's mask is used.
        sbd_root: the folder of the Semantic Boundaries Dataset, for ``train_aug``; null for none.
        label_source: the image labels: the classes in the masks, or the objects in ``Annotations``.
        difficult: whether objects that are marked as difficult count, with "xml".
        annotated_as: the names of the classes in ``Annotations``; null if they are ``classes``.
    """

    devkit: str = setting(changes="images", why=SELECTION)
    image_set: str = setting("Segmentation", changes="images", why=SELECTION)
    mask_folders: list[str] = setting(
        ["SegmentationClass", "SegmentationClassAug"], changes="nothing", why=GROUND_TRUTH
    )
    sbd_root: str | None = setting(None, changes="images", why=SELECTION)
    label_source: str = setting(
        "masks", changes="nothing", why=GROUND_TRUTH, choices=("masks", "xml")
    )
    difficult: bool = setting(True, changes="nothing", why=GROUND_TRUTH)
    annotated_as: list[str] | None = setting(None, changes="nothing", why=GROUND_TRUTH)


def load_voc(settings: VocSettings) -> Dataset:
    """Reads the splits of ``ImageSets/Segmentation`` or ``ImageSets/Main`` from a VOC folder.

    Args:
        settings: ``root`` is the folder that holds ``JPEGImages``, or one above it; ``splits``
            gives the names of the lists.

    Raises:
        UserError: the layout differs; the message gives what was expected and what is there.
    """
    vocabulary = build_vocabulary(settings)
    below = [settings.devkit, f"VOCdevkit/{settings.devkit}"]
    given = existing_folder(settings.root, "root", settings.guide)
    root = find_root(given, below, "JPEGImages", settings.guide)
    lists = root / "ImageSets" / settings.image_set
    readers: dict[str, Callable[[], list[Sample]]] = {}
    find_mask = _MaskFinder(root, settings, len(vocabulary.classes))
    find_labels = _label_finder(root, settings, vocabulary.classes)
    for split, name in settings.splits.items():
        ids = None
        # train_aug is distributed as trainaug too.
        paths = [lists / f"{name}.txt", lists / f"{name.replace('_', '')}.txt"]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            ids = partial(_read_ids, path)
        elif split == "train_aug" and find_mask.sbd is not None:
            ids = partial(_augmented_ids, root, find_mask.sbd, settings.guide)
        if ids is not None:
            readers[split] = partial(_samples, root, ids, find_mask, find_labels)
    places = {split: f"{name}.txt" for split, name in settings.splits.items()}
    require_splits(settings, readers, lists, places)
    return Dataset(vocabulary, Splits(readers), settings.train_split)


def _samples(
    root: Path,
    ids: Callable[[], list[str]],
    find_mask: Callable[[str], GroundTruthMask | None],
    find_labels: Callable[[str, GroundTruthMask | None], Callable[[], Labels] | None],
) -> list[Sample]:
    samples = []
    for image_id in ids():
        mask = find_mask(image_id)
        image = root / "JPEGImages" / f"{image_id}.jpg"
        samples.append(Sample(image_id, image, mask, find_labels(image_id, mask)))
    return samples


def _read_ids(path: Path) -> list[str]:
    # Some copies of train_aug list "/JPEGImages/x.jpg /SegmentationClassAug/x.png".
    ids = list(dict.fromkeys(Path(line.split()[0]).stem for line in read_lines(path)))
    if any("\0" in image_id for image_id in ids):  # no file name holds NUL
        raise UserError(f"{path} is not a list of images: replace it")
    return ids


class _MaskFinder:
    """Finds an image's mask among VOC's own and those of SBD."""

    def __init__(self, root: Path, settings: VocSettings, num_classes: int):
        self.num_classes = num_classes
        folders = [root / name for name in settings.mask_folders]
        self.folders = [folder for folder in folders if folder.is_dir()]
        self.sbd = None
        self.cache = Path(settings.cache) / "sbd"
        if settings.sbd_root is not None:
            below = ["dataset", "benchmark_RELEASE/dataset"]
            sbd_root = existing_folder(settings.sbd_root, "sbd_root", settings.guide)
            self.sbd = find_root(sbd_root, below, "cls", settings.guide)

    def __call__(self, image_id: str) -> GroundTruthMask | None:
        """Returns an image's mask from VOC's folders, else from SBD, else none."""
        for folder in self.folders:
            if (folder / f"{image_id}.png").is_file():
                return MaskFile(folder / f"{image_id}.png", self.num_classes)
        if self.sbd is not None and (self.sbd / "cls" / f"{image_id}.mat").is_file():
            matlab = self.sbd / "cls" / f"{image_id}.mat"
            return MatlabMask(self.cache / f"{image_id}.png", matlab, self.num_classes)
        return None


def _augmented_ids(root: Path, sbd: Path, guide: str) -> list[str]:
    """Returns train_aug: the images of VOC's training split and of SBD, without VOC's val."""

    def listed(folder: Path, name: str) -> set[str]:
        return set(_read_ids(first_existing(folder, [f"{name}.txt"], guide)))

    # The lists in Main hold other images, most of which have no mask.
    voc = root / "ImageSets" / "Segmentation"
    candidates = listed(sbd, "train") | listed(sbd, "val") | listed(voc, "train")
    return sorted(candidates - listed(voc, "val"))


def _label_finder(
    root: Path, settings: VocSettings, classes: Sequence[str]
) -> Callable[[str, GroundTruthMask | None], Callable[[], Labels] | None]:
    """Returns a function that finds an image's labels; it returns none if the mask gives them."""
    if settings.label_source == "masks":
        return lambda image_id, mask: None
    # The files hold the devkit's names, even where dataset.classes differ.
    names = settings.annotated_as or classes
    if len(names) != len(classes):
        raise UserError(
            f"dataset.annotated_as holds {len(names)} names for {len(classes)} classes: give one"
            " for each class, in the same order"
        )
    indices = {name: k for k, name in enumerate(names)}
    read = partial(
        read_objects, indices=indices, difficult=settings.difficult, guide=settings.guide
    )

    def find(image_id: str, mask: GroundTruthMask | None) -> Callable[[], Labels] | None:
        path = root / "Annotations" / f"{image_id}.xml"
        # VOC 2012's test images have neither. A mask must not replace a missing file: its classes
        # would silently be another set of labels.
        return partial(read, path) if mask is not None or path.is_file() else None

    return find


def read_objects(path: Path, indices: Mapping[str, int], difficult: bool, guide: str) -> Labels:
    """Returns the classes of the objects in an annotation of VOC.

    Args:
        path: the XML file.
        indices: class name → index.
        difficult: whether objects that are marked as difficult count.
        guide: the heading in ``data/README.md`` that says where the file comes from.

    Returns:
        Class indices from 0, in the order of the file.

    Raises:
        UserError: the file is missing or damaged, or names an unknown class.
    """
    try:
        parser = ElementTree.XMLParser(target=_PlainTree())
        objects = ElementTree.parse(path, parser).getroot().findall("object")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: get it (data/README.md, line {guide_line(guide)}, {guide}),"
            " or take the classes in the masks, dataset.label_source=masks"
        ) from error
    # Unknown encodings raise LookupError, and those that XML does not allow ValueError.
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise UserError(f"{path} cannot be read: replace it") from error
    labels: dict[int, None] = {}  # a set that keeps its order
    for item in objects:
        name = item.findtext("name", "").strip()
        if name not in indices:
            raise UserError(
                f"{path} names {name or 'nothing'}, which is not one of the classes: give the"
                " names in the annotations as dataset.annotated_as"
            )
        if difficult or item.findtext("difficult", "0").strip() != "1":
            labels[indices[name]] = None
    return tuple(labels)


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses a document type, which could include other files or expand without limit."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        """Handles the start of a document type, before its declarations.

        Raises:
            ParseError: always; annotations of VOC have no document type.
        """
        raise ElementTree.ParseError("a document type")
