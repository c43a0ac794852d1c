"""PASCAL VOC 2007 and 2012 in the layout of the devkit, read as it is."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets.ground_truth import MaskFile, MatlabMask
from pipeline.datasets.layout import find_root, find_splits, first_existing, how_to_get
from pipeline.datasets.settings import VocSettings
from pipeline.datasets.vocabulary import Vocabulary, annotated_names, build_vocabulary
from pipeline.engine.sample import Dataset, GroundTruthMask, Labels, Sample
from pipeline.errors import UserError
from pipeline.files.text import read_lines


def load_voc(settings: VocSettings) -> Dataset[Vocabulary]:
    """Reads the splits of ``ImageSets/Segmentation`` or ``ImageSets/Main`` from a VOC folder.

    ``root`` is the folder that holds ``JPEGImages``, or one above it; ``splits`` gives the names of
    the lists.
    """
    vocabulary = build_vocabulary(settings)
    below = [settings.devkit, f"VOCdevkit/{settings.devkit}"]
    root = find_root(settings, "root", "JPEGImages", below)
    sbd = None
    if settings.sbd_root is not None:
        below = ["dataset", "benchmark_RELEASE/dataset"]
        sbd = find_root(settings, "sbd_root", "cls", below)
    # The files hold the devkit's names, even where dataset.classes differ.
    names = annotated_names(settings.annotated_as, vocabulary)
    devkit = _Devkit(settings, root, sbd, names)
    splits = find_splits(
        settings,
        root / "ImageSets" / settings.image_set,
        # train_aug is distributed as trainaug too.
        lambda name: [f"{name}.txt", f"{name.replace('_', '')}.txt"],
        read=lambda path: devkit.samples(_read_ids(path)),
        derived={} if sbd is None else {"train_aug": lambda: devkit.samples(devkit.augmented())},
    )
    return Dataset(vocabulary, splits, settings.train_split)


def _read_ids(path: Path) -> list[str]:
    # Some copies of train_aug list "/JPEGImages/x.jpg /SegmentationClassAug/x.png".
    return list(dict.fromkeys(Path(line.split()[0]).stem for line in read_lines(path)))


@dataclass(frozen=True)
class _Devkit:
    """The folders of VOC and SBD, and the name of each class in the annotations."""

    settings: VocSettings
    root: Path
    sbd: Path | None
    names: Sequence[str]

    def samples(self, ids: Iterable[str]) -> list[Sample]:
        """Returns images with their masks, and a reader of their labels unless masks give them."""
        samples = []
        indices = {name: k for k, name in enumerate(self.names)}
        about = indices, self.settings.difficult, self.settings.guide
        for image_id in ids:
            mask, labels = self._mask(image_id), None
            path = self.root / "Annotations" / f"{image_id}.xml"
            # VOC 2012's test images have neither. A mask must not replace a missing file: its
            # classes would silently be another set of labels.
            if self.settings.label_source == "xml" and (mask is not None or path.is_file()):
                labels = partial(read_objects, path, *about)
            image = self.root / "JPEGImages" / f"{image_id}.jpg"
            samples.append(Sample(image_id, image, mask, labels))
        return samples

    def augmented(self) -> list[str]:
        """Returns train_aug: the images of VOC's training split and of SBD, without VOC's val."""

        def listed(folder: Path, name: str) -> set[str]:
            return set(_read_ids(first_existing(self.settings, folder, [f"{name}.txt"])))

        # The lists in Main hold other images, most of which have no mask.
        voc = self.root / "ImageSets" / "Segmentation"
        candidates = listed(self.sbd, "train") | listed(self.sbd, "val") | listed(voc, "train")
        return sorted(candidates - listed(voc, "val"))

    def _mask(self, image_id: str) -> GroundTruthMask | None:
        """Returns an image's mask from VOC's folders, else from SBD, else none."""
        for folder in self.settings.mask_folders:
            if (path := self.root / folder / f"{image_id}.png").is_file():
                return MaskFile(path, len(self.names))
        if self.sbd and (path := self.sbd / "cls" / f"{image_id}.mat").is_file():
            kept = Path(self.settings.cache) / "sbd" / f"{image_id}.png"
            return MatlabMask(kept, path, len(self.names))
        return None


def read_objects(path: Path, indices: Mapping[str, int], difficult: bool, guide: str) -> Labels:
    """Returns the classes of the objects in an annotation of VOC, in the order of the file.

    Args:
        path: the XML file.
        indices: class name → index.
        difficult: whether objects that are marked as difficult count.
        guide: the heading in ``data/README.md`` that says where the file comes from.

    Raises:
        UserError: the file is missing or damaged, or names an unknown class.
    """
    try:
        parser = ElementTree.XMLParser(target=_PlainTree())
        objects = ElementTree.parse(path, parser).getroot().findall("object")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: {how_to_get(guide)}, or take the classes in the masks,"
            " dataset.label_source=masks"
        ) from error
    # Unknown encodings raise LookupError, and those that XML does not allow ValueError.
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise UserError(f"{path} cannot be read: replace it") from error
    labels = {}  # a set that keeps its order
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
        """Refuses it before its declarations are read; annotations of VOC have none."""
        raise ElementTree.ParseError("a document type")
