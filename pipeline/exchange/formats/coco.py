"""Masks as annotations in COCO's format: one JSON file with run lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.annotation_index import EXPORTED, exported_entry
from pipeline.datasets.instances import coco_instance
from pipeline.exchange.artefacts import Artefact, Export, name_photograph, read_artefact_labels
from pipeline.exchange.formats.regions import class_regions
from pipeline.files.label_images import IGNORE
from pipeline.files.own_files import OwnFiles

_DESCRIPTION = (
    "regions of label images; category k+1 is class k. Pixels without annotation are background or"
    " ignored (label 255); ignored_area counts the ignored pixels of an image"
)


def export_coco(
    artefact: Artefact, target: Path, images: Path | None = None, components: bool = False
) -> Export:
    """Writes masks or predictions as one JSON file in COCO's format.

    Class k has category k+1, as in masks. An image has an annotation for each of its classes:
    ``segmentation`` in COCO's compressed run lengths, ``area`` in pixels, ``bbox`` as x, y, width,
    height, and ``iscrowd`` 0. No annotation has label 255. If all ids are numbers, they are the
    numbers of the images as well, as in COCO; otherwise images are counted from 1.

    The files of the image root ``images`` give ``file_name`` its suffix; without it, ``.jpg``. With
    ``components`` there is an annotation for each connected component, diagonals included.
    Raises a UserError if the file cannot be written, or is another's.
    """
    export, output = Export(), OwnFiles(target.parent, "export.py")
    output.refuse_foreign([target])
    numbers = {image_id: k for k, image_id in enumerate(sorted(artefact.entries), 1)}
    if all(image_id.isascii() and image_id.isdecimal() for image_id in numbers):
        own = {image_id: int(image_id) for image_id in numbers}
        numbers = own if len({*own.values()}) == len(own) else numbers
    names = {str(k): name for k, name in enumerate(artefact.classes, 1)}

    def describe_image(image_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        name = name_photograph(images, image_id)
        labels = read_artefact_labels(artefact, image_id, images and images / name)
        regions = class_regions(labels, components)
        about = {
            "id": numbers[image_id],
            "file_name": name,
            "width": labels.shape[1],
            "height": labels.shape[0],
            "ignored_area": int((labels == IGNORE).sum()),
        }
        made = [{"image_id": about["id"], **_annotation(*region)} for region in regions]
        if artefact.is_computed(image_id):
            instances = [coco_instance(each, names) for each in made]
            about[EXPORTED] = exported_entry([*labels.shape], instances)
        return about, made

    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for _, (about, regions) in export.each(sorted(artefact.entries), describe_image):
        described.append(about)
        annotations += ({"id": k, **each} for k, each in enumerate(regions, len(annotations) + 1))
    categories = [{"id": int(k), "name": n, "supercategory": ""} for k, n in names.items()]
    content = {
        "info": {"description": _DESCRIPTION},
        "licenses": [],
        "images": described,
        "annotations": annotations,
        "categories": categories,
    }
    output.write(target, json.dumps(content, ensure_ascii=False, separators=(",", ":")))
    if ignored := sum(image["ignored_area"] for image in described):
        export.notes.append(
            f"{ignored} pixels of label 255 are in no annotation, like the background:"
            " ignored_area counts those of each image"
        )
    return export


def _annotation(k: int, inside: np.ndarray) -> dict[str, Any]:
    """Returns COCO's fields of a region of class k, H×W bool."""
    from pycocotools import mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(inside, np.uint8))
    return {
        "category_id": k + 1,
        "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
        "area": int(coco_mask.area(runs)),
        "bbox": [float(value) for value in coco_mask.toBbox(runs)],
        "iscrowd": 0,
    }
