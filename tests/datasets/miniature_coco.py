"""COCO and COCO-Stuff in the layout of the download, a few small images each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tests.datasets.miniatures import run_lengths, size_of, striped, write_labels, write_photograph

COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
COCO_NAMES = [" ".join(name.split()) for name in _NAMES.split(",")]
"""As instances_val2017.json has them."""

PERSON, DOG, CUP, TABLE, TOOTHBRUSH = 1, 18, 47, 67, 90

STUFF_VALUES = ([0, 21, 156], [15, 123, 181], [0, 30, 92, 255])
"""What the pixel maps of COCO-Stuff's images hold."""


def packed(mask: np.ndarray) -> dict[str, Any]:
    """Returns COCO's run lengths as the text that a JSON file holds."""
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def box(top: int, left: int, bottom: int, right: int) -> list[float]:
    """Returns a rectangle as COCO's polygon."""
    return [left, top, right, top, right, bottom, left, bottom]


def disc(index: int, top: int, left: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: size_of(index)[0], : size_of(index)[1]]
    return (rows - top) ** 2 + (columns - left) ** 2 <= radius**2


COCO_SHAPES: tuple[list[tuple[int, int, Any]], ...] = (
    # The cup is listed before the table that it stands on; the table has two parts.
    [
        (CUP, 0, [box(24, 20, 40, 36)]),
        (TABLE, 0, [[4.5, 20, 60, 16, 62, 60, 8, 58], [70, 5, 90, 5, 80, 40]]),
    ],
    # The crowd is smaller than the dog, and below it all the same.
    [(PERSON, 1, run_lengths(disc(1, 40, 20, 12))), (DOG, 0, [box(36, 4, 76, 52)])],
    [(PERSON, 1, packed(disc(2, 24, 30, 14))), (TOOTHBRUSH, 0, [box(2, 50, 20, 71.5)])],
    [],
    [(DOG, 0, [[10, 10, 40, 12, 30, 50]]), (DOG, 0, [box(4, 60, 30, 80)])],
)
"""(category id, crowd, polygons or run lengths) of every instance of every image."""


def area_of(shape: Any, size: tuple[int, int]) -> float:
    if isinstance(shape, list):
        shape = coco_mask.merge(coco_mask.frPyObjects(shape, *size))
    elif isinstance(shape["counts"], list):
        shape = coco_mask.frPyObjects(shape, *size)
    return float(coco_mask.area(shape))


def coco_names(split: str) -> list[str]:
    """Returns the ids of a split's images; those of 2014 begin with its name."""
    prefix = f"COCO_{split}_" if split.endswith("2014") else ""
    return [f"{prefix}{139 + 7 * index:012d}" for index in range(len(COCO_SHAPES))]


def build_coco(folder: Path, split: str = "val2017", images: str = "") -> Path:
    """Builds a split of COCO and returns its root.

    Args:
        folder: where.
        split: name of the image folder.
        images: the folder of that folder, "images/" in some copies.
    """
    root = folder / "coco"
    records, annotations = [], []
    for index, (name, shapes) in enumerate(zip(coco_names(split), COCO_SHAPES)):
        write_photograph(root / f"{images}{split}" / f"{name}.jpg", index)
        height, width = size_of(index)
        image_id = 139 + 7 * index
        records.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        )
        for category, crowd, shape in shapes:
            annotation = {
                "id": 1000 + len(annotations),
                "image_id": image_id,
                "category_id": category,
                "iscrowd": crowd,
                "area": area_of(shape, (height, width)),
                "bbox": [0, 0, 9, 9],
                "segmentation": shape,
            }
            annotations.append(annotation)
    content = {
        "info": {"description": "a miniature"},
        # Neither images nor categories are promised to be in order.
        "images": records[::-1],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in list(zip(COCO_IDS, COCO_NAMES))[::-1]],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def build_cocostuff(folder: Path, split: str = "val2017") -> Path:
    """Builds a split of COCO-Stuff, with what mmsegmentation's converter leaves behind."""
    root = folder / "coco"
    for index, (name, values) in enumerate(zip(coco_names(split), STUFF_VALUES)):
        write_photograph(root / split / f"{name}.jpg", index)
        maps = root / "stuffthingmaps" / split
        write_labels(maps / f"{name}.png", striped(index, values), palette=False)
        write_labels(maps / f"{name}_labelTrainIds.png", striped(index, [0]), palette=False)
    return root
