"""PASCAL VOC 2007 and 2012 in the layout of the devkit, read as it is."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.datasets.ground_truth import GroundTruthMask, MaskFile, MatlabMask
from pipeline.datasets.layout import (
    existing_root,
    find_root,
    first_existing,
    guide_line,
    read_lines,
    require_splits,
)
from pipeline.datasets.sample import Dataset, Labels, Sample, Splits
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import UserError


def load_voc(settings: Mapping) -> Dataset:
    """Reads the splits of ``ImageSets/Segmentation`` or ``ImageSets/Main`` from a VOC folder.

    Args:
        settings: ``root`` (the folder that holds ``JPEGImages``, or one above it), ``devkit`` (the
            name of that folder as distributed), ``image_set`` ("Segmentation" or "Main"),
            ``splits`` (split name → name of the list), ``mask_folders`` (tried in order for every
            image), ``sbd_root`` (the Semantic Boundaries Dataset, for ``train_aug``),
            ``label_source`` ("masks", or "xml" for the objects in ``Annotations``), ``difficult``
            (whether objects that are marked so count), ``annotated_as`` (what the classes are
            called there), ``cache`` and the vocabulary.

    Raises:
        UserError: the layout is not as expected; says what was looked for and what was found.
    """
    vocabulary = build_vocabulary(settings)
    devkit, section = settings["devkit"], settings["guide"]
    below = [devkit, f"VOCdevkit/{devkit}"]
    root = find_root(existing_root(settings), below, "JPEGImages", section)
    lists = root / "ImageSets" / settings["image_set"]
    readers: dict[str, Callable[[], list[Sample]]] = {}
    find_mask = _MaskFinder(root, settings, len(vocabulary.classes))
    find_labels = _label_finder(root, settings, vocabulary.classes)
    for split, name in settings["splits"].items():
        ids = None
        # train_aug is distributed as trainaug too.
        found = [f for n in (name, name.replace("_", "")) if (f := lists / f"{n}.txt").is_file()]
        if found:
            ids = partial(_read_ids, found[0])
        elif split == "train_aug" and find_mask.sbd is not None:
            ids = partial(_augmented_ids, root, find_mask.sbd, section)
        if ids is not None:
            readers[split] = partial(_samples, root, ids, find_mask, find_labels)
    places = {split: f"{name}.txt" for split, name in settings["splits"].items()}
    require_splits(settings, readers, lists, places)
    return Dataset(vocabulary, Splits(readers), settings["train_split"])


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
    if any("\0" in image_id for image_id in ids):  # which no file has in its name
        raise UserError(f"{path} is no list of images: replace it")
    return ids


class _MaskFinder:
    """Finds an image's mask among VOC's own and those of SBD."""

    def __init__(self, root: Path, settings: Mapping, class_count: int):
        self.class_count = class_count
        self.folders = [f for n in settings["mask_folders"] if (f := root / n).is_dir()]
        self.sbd = None
        self.cache = Path(settings["cache"]) / "sbd"
        if settings["sbd_root"] is not None:
            below = ["dataset", "benchmark_RELEASE/dataset"]
            sbd_root = existing_root(settings, "sbd_root")
            self.sbd = find_root(sbd_root, below, "cls", settings["guide"])

    def __call__(self, image_id: str) -> GroundTruthMask | None:
        """Returns an image's mask: one of VOC's folders, otherwise SBD's, where there is one."""
        for folder in self.folders:
            if (folder / f"{image_id}.png").is_file():
                return MaskFile(folder / f"{image_id}.png", self.class_count)
        if self.sbd is not None and (self.sbd / "cls" / f"{image_id}.mat").is_file():
            matlab = self.sbd / "cls" / f"{image_id}.mat"
            return MatlabMask(self.cache / f"{image_id}.png", matlab, self.class_count)
        return None


def _augmented_ids(root: Path, sbd: Path, section: str) -> list[str]:
    """Returns train_aug: VOC's training images and SBD's, without VOC's validation images."""

    def listed(folder: Path, name: str) -> set[str]:
        return set(_read_ids(first_existing(folder, [f"{name}.txt"], section)))

    # The lists in Main are of other images, most of which have no mask.
    voc = root / "ImageSets" / "Segmentation"
    every = listed(sbd, "train") | listed(sbd, "val") | listed(voc, "train")
    return sorted(every - listed(voc, "val"))


def _label_finder(
    root: Path, settings: Mapping, classes: Sequence[str]
) -> Callable[[str, GroundTruthMask | None], Callable[[], Labels] | None]:
    """Returns what finds an image's labels; none leaves it to the mask, if there is one."""
    source = settings["label_source"]
    if source not in ("masks", "xml"):
        raise UserError(f"dataset.label_source={source} is unknown: give masks or xml")
    if source == "masks":
        return lambda image_id, mask: None
    # The names in the files are the devkit's, whatever a person calls the classes.
    names = settings["annotated_as"] or classes
    if len(names) != len(classes):
        raise UserError(
            f"dataset.annotated_as holds {len(names)} names for {len(classes)} classes: give one"
            " for each class, in the same order"
        )
    indices = {name: k for k, name in enumerate(names)}
    read = partial(
        read_objects, indices=indices, difficult=settings["difficult"], section=settings["guide"]
    )

    def find(image_id: str, mask: GroundTruthMask | None) -> Callable[[], Labels] | None:
        path = root / "Annotations" / f"{image_id}.xml"
        # Of VOC 2012's test images there is neither. A mask alone is no substitute: it shows what
        # was segmented, which would silently be another set of labels.
        return partial(read, path) if mask is not None or path.is_file() else None

    return find


def read_objects(path: Path, indices: Mapping[str, int], difficult: bool, section: str) -> Labels:
    """Returns the classes of the objects in an annotation of VOC.

    Args:
        path: the XML file.
        indices: class name → index.
        difficult: whether objects that are marked as difficult count.
        section: the heading in ``data/README.md`` that says where the file comes from.

    Raises:
        UserError: the file is missing or damaged, or names a class that is not there.
    """
    try:
        parser = ElementTree.XMLParser(target=_PlainTree())
        objects = ElementTree.parse(path, parser).getroot().findall("object")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: get it (data/README.md, line {guide_line(section)}, {section}),"
            " or take the classes in the masks, dataset.label_source=masks"
        ) from error
    # LookupError and ValueError are what encodings raise that there are not, or not in XML.
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise UserError(f"{path} cannot be read: replace it") from error
    found = set()
    for item in objects:
        name = item.findtext("name", "").strip()
        if name not in indices:
            raise UserError(
                f"{path} names {name or 'nothing'}, which is none of the classes: give the names"
                " in the annotations as dataset.annotated_as"
            )
        if difficult or item.findtext("difficult", "0").strip() != "1":
            found.add(indices[name])
    return tuple(sorted(found))


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses a document type, with which a file could name others and grow without end."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        """Is called at the start of a document type, before what it declares.

        Raises:
            ParseError: always; no annotation of VOC has one.
        """
        raise ElementTree.ParseError("a document type")
