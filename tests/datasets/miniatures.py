"""Data sets in the layouts in which they are distributed, a few small images each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from pipeline.datasets import find_reader, load_dataset
from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.sample import Dataset
from pipeline.files.images import encode_png
from pipeline.stages.config import compose
from tests.small_runs import draw_photograph
from tests.typed import to_settings

SIZES = ((64, 96), (80, 56), (48, 72), (64, 64), (56, 88))
"""Height and width of the first, second, … image of a data set."""

VOC2007_OBJECTS = {
    "000001": [("dog", False), ("person", False), ("person", True)],
    "000002": [("train", False)],
    "000003": [("sofa", True), ("chair", False)],
    "000005": [("chair", False), ("chair", False)],
    "000007": [("car", False), ("bus", True)],
}
"""Image → its objects and whether they are marked as difficult."""

VOC2007_LISTS = {
    "train": ["000005"],
    "val": ["000007"],
    "trainval": ["000005", "000007"],
    "test": ["000001", "000002", "000003"],
}

VOC2012_LABELS = {
    "2007_000032": [1, 15],
    "2007_000039": [20],
    "2007_000033": [1],
    "2007_000042": [19],
    "2007_000061": [4, 15],
}
"""Image → the labels in its mask."""

VOC2012_LISTS = {
    "train": ["2007_000032", "2007_000039"],
    "val": ["2007_000033", "2007_000042", "2007_000061"],
}

SBD_LISTS = {
    "train": ["2007_000032", "2008_000008", "2007_000033"],
    "val": ["2008_000015", "2007_000042"],
}
"""Some of its images are in VOC's lists too, with masks of its own."""

TRAIN_AUG = ["2007_000032", "2007_000039", "2008_000008", "2008_000015"]

CONTEXT_LABELS = {"2008_000003": [0, 1, 49], "2008_000001": [37, 0], "2008_000002": [59, 31]}
"""Image → the labels in its mask; the first is of the training split."""

CITIES = {
    "train": ["aachen_000002_000007"],
    "val": ["frankfurt_000000_000294", "frankfurt_000001_001016", "lindau_000000_000019"],
    "test": ["berlin_000005_000019"],
}

ADE20K_VALUES = ([1, 3, 13], [0, 3, 150], [5, 17])


def settings_of(name: str, root: Path, **changes: Any) -> dict[str, Any]:
    """Returns the configuration of a data set as plain values."""
    return {**_preset(name), "root": str(root), **changes}


@cache
def _preset(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose([f"dataset={name}"]).dataset)


def load(name: str, root: Path, **changes: Any) -> Dataset:
    _, kind = find_reader(name)
    return load_dataset(to_settings(kind, settings_of(name, root, **changes)))


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Returns every file and folder below a root with what changes when it is written to."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [root, *sorted(root.rglob("*"))]
    }


def size_of(index: int) -> tuple[int, int]:
    return SIZES[index % len(SIZES)]


def write_photograph(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_photograph(index, *size_of(index))).save(path)


def striped(index: int, values: Sequence[int], border: int | None = None) -> np.ndarray:
    """Returns a mask with a vertical stripe of every value, perhaps with borders between them."""
    height, width = size_of(index)
    edges = np.linspace(0, width, len(values) + 1).astype(int)
    labels = np.zeros((height, width), np.uint8)
    for value, start, end in zip(values, edges, edges[1:]):
        labels[:, start:end] = value
        if border is not None:
            labels[:, max(start - 1, 0) : start + 1] = border
    return labels


def write_labels(path: Path, labels: np.ndarray, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(labels, voc_palette(256) if palette else None))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Returns COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = [0, *np.flatnonzero(np.diff(flat, prepend=False)), flat.size]
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def write_list(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_annotation(path: Path, objects: Iterable[tuple[str, bool]]) -> None:
    """Writes the XML of an image of VOC; a person has parts, whose names are no classes."""
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    items = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{int(difficult)}</difficult>{part if name == 'person' else ''}"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name, difficult in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{items}</annotation>")


def build_voc2007(folder: Path) -> Path:
    """Builds the devkit of 2007 and returns ``VOCdevkit``; few images have masks."""
    root = folder / "VOCdevkit" / "VOC2007"
    for index, (name, objects) in enumerate(VOC2007_OBJECTS.items()):
        write_photograph(root / "JPEGImages" / f"{name}.jpg", index)
        write_annotation(root / "Annotations" / f"{name}.xml", objects)
    write_labels(root / "SegmentationClass" / "000003.png", striped(2, [0, 18, 9], border=255))
    for name, ids in VOC2007_LISTS.items():
        write_list(root / "ImageSets" / "Main" / f"{name}.txt", ids)
    write_list(root / "ImageSets" / "Main" / "dog_test.txt", ["000001  1", "000002 -1"])
    write_list(root / "ImageSets" / "Segmentation" / "test.txt", ["000003"])
    return folder / "VOCdevkit"


def build_voc2012(folder: Path, *, augmented: bool = False) -> Path:
    """Builds the devkit of 2012 and returns ``VOC2012``.

    Args:
        folder: where.
        augmented: adds ``SegmentationClassAug`` and the list of its images.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    names = list(dict.fromkeys([*VOC2012_LABELS, *SBD_LISTS["train"], *SBD_LISTS["val"]]))
    classes = settings_of("voc2012", root)["classes"]
    for index, name in enumerate(names):
        write_photograph(root / "JPEGImages" / f"{name}.jpg", index)
        labels = VOC2012_LABELS.get(name, [8])
        mask = striped(index, [0, *labels], border=255)
        if name in VOC2012_LABELS:
            write_labels(root / "SegmentationClass" / f"{name}.png", mask)
        if augmented:
            write_labels(root / "SegmentationClassAug" / f"{name}.png", mask)
        objects = [(classes[label - 1], False) for label in labels]
        # Objects that no mask has: too small, and marked as difficult.
        write_annotation(root / "Annotations" / f"{name}.xml", [*objects, ("bottle", True)])
    for name, ids in VOC2012_LISTS.items():
        write_list(root / "ImageSets" / "Segmentation" / f"{name}.txt", ids)
    write_list(root / "ImageSets" / "Main" / "train.txt", ["2008_000008"])
    write_list(root / "ImageSets" / "Main" / "val.txt", ["2008_000015"])
    if augmented:
        pairs = [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png" for i in TRAIN_AUG]
        write_list(root / "ImageSets" / "Segmentation" / "train_aug.txt", pairs)
    return root


def build_sbd(folder: Path) -> Path:
    """Builds the Semantic Boundaries Dataset beside VOC and returns ``benchmark_RELEASE``."""
    root = folder / "benchmark_RELEASE" / "dataset"
    names = [*VOC2012_LABELS, *SBD_LISTS["train"], *SBD_LISTS["val"]]
    (root / "cls").mkdir(parents=True)
    for name, ids in SBD_LISTS.items():
        write_list(root / f"{name}.txt", ids)
        for image_id in ids:
            index = list(dict.fromkeys(names)).index(image_id)
            labels = striped(index, [0, 8])
            boundaries = np.empty((20, 1), object)
            boundaries[:, 0] = [csc_matrix(labels.shape, dtype=bool) for _ in range(20)]
            struct = {
                "Boundaries": boundaries,
                "Segmentation": labels,
                "CategoriesPresent": np.array([[8]], np.uint8),
            }
            savemat(root / "cls" / f"{image_id}.mat", {"GTcls": struct}, do_compression=True)
            write_photograph(root / "img" / f"{image_id}.jpg", index)
    return root.parent


def build_context(folder: Path, *, as_json: bool = False) -> Path:
    """Builds Pascal Context on VOC 2010 and returns ``VOC2010``; as it is downloaded, or PNGs."""
    root = folder / "VOCdevkit" / "VOC2010"
    for index, (name, labels) in enumerate(CONTEXT_LABELS.items()):
        write_photograph(root / "JPEGImages" / f"{name}.jpg", index)
        if not as_json:
            mask = striped(index, labels)
            write_labels(root / "SegmentationClassContext" / f"{name}.png", mask, palette=False)
    if as_json:
        (root / "trainval_merged.json").write_text(json.dumps(context_json()))
        return root
    first, *others = CONTEXT_LABELS
    for name, ids in {"train": [first], "val": others}.items():
        write_list(root / "ImageSets" / "SegmentationContext" / f"{name}.txt", ids)
    return root


def context_json() -> dict:
    """Returns Pascal Context's JSON: each label is drawn over one that covers the whole image."""
    categories = {0: 0, 1: 2, 31: 207, 37: 284, 49: 368, 58: 454, 59: 458}
    content: dict = {"images": [], "annos_segmentation": []}
    for number, (name, labels) in enumerate(CONTEXT_LABELS.items()):
        mask = striped(number, labels)
        height, width = mask.shape
        image = {"image_id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
        content["images"].append({**image, "phase": "val" if number else "train"})
        for label, region in [(58, mask >= 0), *((k, mask == k) for k in labels)]:
            entry = {"id": len(content["annos_segmentation"]), "image_id": number}
            entry |= {"category_id": categories[label], "segmentation": run_lengths(region)}
            content["annos_segmentation"].append(entry)
    return content


def build_cityscapes(folder: Path) -> Path:
    """Builds Cityscapes and returns its folder; the labels of "test" are blank, as distributed."""
    root = folder / "cityscapes"
    for index, (split, name) in enumerate((s, n) for s, names in CITIES.items() for n in names):
        city, _, _ = name.partition("_")
        image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
        write_photograph(image, index)
        values = [0] if split == "test" else [7, index, 26, 33]
        maps = root / "gtFine" / split / city
        write_labels(maps / f"{name}_gtFine_labelIds.png", striped(index, values), palette=False)
    return root


def build_ade20k(folder: Path) -> Path:
    """Builds ADE20K's training and validation images and returns the folder above it."""
    root = folder / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train"), ("validation", "ADE_val")):
        for index, values in enumerate(ADE20K_VALUES):
            image_id = f"{name}_{index + 1:08d}"
            write_photograph(root / "images" / split / f"{image_id}.jpg", index)
            mask = striped(index, values)
            write_labels(root / "annotations" / split / f"{image_id}.png", mask, palette=False)
    return folder


def copy_of(root: Path, folder: Path) -> Path:
    """Returns a copy of a miniature, to be damaged."""
    return Path(shutil.copytree(root, folder / root.name))
