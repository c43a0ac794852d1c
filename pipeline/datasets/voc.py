"""PASCAL VOC 2007 and 2012 in the layout of the devkit, read as it is."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from pipeline.datasets.ground_truth import MaskFile, MatlabMask
from pipeline.datasets.layout import find_root, find_splits, first_existing, how_to_get
from pipeline.datasets.settings import VocSettings
from pipeline.datasets.vocabulary import Vocabulary, annotated_names, build_vocabulary
from pipeline.engine.sample import Dataset, Labels, Sample
from pipeline.errors import UserError
from pipeline.files.text import read_text


def load_voc(settings: VocSettings, *, expected: bool = False) -> Dataset[Vocabulary]:
    """Reads the splits of ``ImageSets/Segmentation`` or ``ImageSets/Main`` from a VOC folder.

    ``root`` is the folder that holds ``JPEGImages``, or one above it; ``splits`` gives the names of
    the lists. A mask that is not there is named by an error if it is ``expected``.
    """
    vocabulary, root = build_vocabulary(settings), find_devkit(settings)
    sbd, below = None, ["dataset", "benchmark_RELEASE/dataset"]
    if settings.sbd_root is not None:
        sbd = find_root(settings, "sbd_root", "cls", below)
    # The files hold the devkit's names, even where dataset.classes differ.
    names = annotated_names(settings.annotated_as, vocabulary)
    indices = {name: k for k, name in enumerate(names)}

    def read(ids: Iterable[str]) -> list[Sample]:
        samples = []
        for image_id in ids:
            files = (root / folder / f"{image_id}.png" for folder in settings.mask_folders)
            mask = next((MaskFile(p, len(names)) for p in files if expected or p.is_file()), None)
            if mask is None and sbd and (path := sbd / "cls" / f"{image_id}.mat").is_file():
                mask = MatlabMask(path, len(names))
            labels, path = None, root / "Annotations" / f"{image_id}.xml"
            # VOC 2012's test images have neither. A mask must not replace a missing file: its
            # classes would silently be another set of labels.
            if settings.label_source == "xml" and (mask is not None or path.is_file()):
                labels = partial(read_objects, path, indices, settings.difficult, settings.guide)
            samples.append(Sample(image_id, root / "JPEGImages" / f"{image_id}.jpg", mask, labels))
        return samples

    def listed(folder: Path, name: str) -> set[str]:
        return {*_read_ids(first_existing(settings, folder, [f"{name}.txt"]))}

    def read_augmented() -> list[Sample]:
        # VOC's training split and SBD, without VOC's val. The lists in Main hold other images, and
        # most of these lack a mask.
        voc = root / "ImageSets" / "Segmentation"
        candidates = listed(sbd, "train") | listed(sbd, "val") | listed(voc, "train")
        return read(sorted(candidates - listed(voc, "val")))

    splits = find_splits(
        settings,
        root / "ImageSets" / settings.image_set,
        # train_aug is distributed as trainaug too.
        lambda name: [f"{name}.txt", f"{name.replace('_', '')}.txt"],
        read=lambda path: read(_read_ids(path)),
        derived={} if sbd is None else {"train_aug": read_augmented},
    )
    return Dataset(vocabulary, splits, settings.train_split)


def find_devkit(settings: VocSettings) -> Path:
    """Returns the folder that holds ``JPEGImages``; raises as :func:`load_voc`."""
    below = [settings.devkit, f"VOCdevkit/{settings.devkit}"]
    return find_root(settings, "root", "JPEGImages", below)


def _read_ids(path: Path) -> list[str]:
    # Some copies of train_aug list "/JPEGImages/x.jpg /SegmentationClassAug/x.png".
    lines = map(str.split, read_text(path, str(path), "replace it").splitlines())
    return list(dict.fromkeys(Path(words[0]).stem for words in lines if words))


def read_objects(path: Path, indices: Mapping[str, int], difficult: bool, guide: str) -> Labels:
    """Returns the classes of the objects in an annotation of VOC, in the order of the file.

    ``indices`` are those of the names; ``difficult`` objects, marked as such, count if it is true;
    ``guide`` is the heading in ``docs/data-sets.md`` that says where the file comes from. Raises a
    UserError if the file is missing or damaged, or names an unknown class.
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
        if (name := item.findtext("name", "").strip()) not in indices:
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
