"""Masks as COCO's annotations: one JSON file with run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from pipeline.datasets.vocabulary import IGNORE
from pipeline.errors import UserError
from pipeline.exchange.exporting import Export, read_labels
from pipeline.files.atomic import write_atomically
from pipeline.report.artefacts import Artefact, find_photograph

_DIAGONALS_TOO = np.ones((3, 3), int)

_DESCRIPTION = (
    "regions of label maps; category k+1 is class k. Pixels without annotation are background, or"
    " were ignored (label 255), of which each image says how many: ignored_area"
)


def export_coco(
    artefact: Artefact, target: Path, images: Path | None = None, components: bool = False
) -> Export:
    """Writes masks or predictions as one JSON file in COCO's format.

    Categories are the classes, class k as k+1, as in masks. An image has an annotation for every
    class in it: ``segmentation`` in COCO's compressed run lengths, ``area`` in pixels, ``bbox`` as
    x, y, width, height, and ``iscrowd`` 0. Label 255 becomes no annotation. Where all ids are
    numbers, they are the images' ids too, as COCO's own are; otherwise images are counted from 1.

    Args:
        artefact: the folder of the stage ``masks`` or ``predictions``.
        target: the JSON file.
        images: the image root, from which ``file_name`` takes its endings; none writes ``.jpg``.
        components: an annotation for every connected part of a class (diagonals connect) instead
            of one for the whole.

    Raises:
        UserError: the folder holds no image, or the file cannot be written.
    """
    export = Export()
    numbers = _number(sorted(artefact.entries))
    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def read(image_id: str) -> tuple[str, np.ndarray]:
        if images is None:
            return f"{image_id}.jpg", read_labels(artefact, image_id)
        path = find_photograph(images, image_id)
        return path.relative_to(images).as_posix(), read_labels(artefact, image_id)

    ignored = 0
    for image_id, (file_name, labels) in export.each(artefact, read):
        height, width = labels.shape
        unknown = int((labels == IGNORE).sum())
        ignored += unknown
        facts = {"file_name": file_name, "width": width, "height": height, "ignored_area": unknown}
        described.append({"id": numbers[image_id], **facts})
        for region in _regions(labels, components):
            of = {"id": len(annotations) + 1, "image_id": numbers[image_id]}
            annotations.append({**of, **region})
    categories = [
        {"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(artefact.classes)
    ]
    content = {
        "info": {"description": _DESCRIPTION},
        "licenses": [],
        "images": described,
        "annotations": annotations,
        "categories": categories,
    }
    write_atomically(target, json.dumps(content, ensure_ascii=False, separators=(",", ":")))
    if ignored:
        export.notes.append(
            f"{ignored} pixels of label 255 are in no annotation, as background is: ignored_area"
            " says how many of each image"
        )
    if images is None:
        export.notes.append("file names end in .jpg: --images takes the images' own")
    return export


def check_target(target: Path) -> None:
    """Refuses a target that is no JSON file.

    Raises:
        UserError: it is none.
    """
    if target.suffix.lower() != ".json" or target.is_dir():
        raise UserError(f"--output {target} is no JSON file: give one such as annotations.json")


def _number(image_ids: list[str]) -> dict[str, int]:
    """Returns id → number, the numbers that ids are, or a count."""
    if all(image_id.isascii() and image_id.isdecimal() for image_id in image_ids):
        numbers = {image_id: int(image_id) for image_id in image_ids}
        if len(set(numbers.values())) == len(numbers):
            return numbers
    return {image_id: number for number, image_id in enumerate(image_ids, 1)}


def _regions(labels: np.ndarray, components: bool) -> Iterator[dict[str, Any]]:
    """Yields what COCO notes of every region, the lowest class first."""
    from pycocotools import mask as coco_mask

    for label in np.unique(labels):
        if label in (0, IGNORE):
            continue
        inside = labels == label
        parts, count = ndimage.label(inside, _DIAGONALS_TOO) if components else (inside, 1)
        for part in range(1, count + 1):
            runs = coco_mask.encode(np.asfortranarray(parts == part, np.uint8))
            yield {
                "category_id": int(label),
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
                "area": int(coco_mask.area(runs)),
                "bbox": [float(value) for value in coco_mask.toBbox(runs)],
                "iscrowd": 0,
            }
