"""Annotations of drawn images in the forms of other programs, each written in the plainest way."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.annotations import Annotations, open_annotations
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.settings import AnnotationSettings
from pipeline.exchange.formats.label_studio import encode_brush
from pipeline.files.images import encode
from tests.datasets.miniature_coco import run_lengths

CLASSES = ["cat", "dog", "traffic light"]
SIZE = 12, 17
"""Height and width of the images."""
IDS = ("a", "b", "b c/d", "c", "e")


def reading(group: str = "masks", **settings: object) -> Reading:
    """Returns how annotations of three classes are read."""
    return Reading.of(AnnotationSettings(**settings), group, CLASSES)


def opened(
    path: Path,
    known: Collection[str] = IDS,
    holds_tags: bool = False,
    **settings: object,
) -> Annotations:
    """Opens annotations of three classes, and of ``known`` images."""
    about = {"known": known, "holds_tags": holds_tags}
    return open_annotations(str(path), "masks.path", reading(**settings), **about)


def coco(
    images: Sequence[tuple[str, list[dict]]], names: Sequence[str] = CLASSES, size: tuple = SIZE
) -> dict:
    """Returns a data set of COCO's: (file name, annotations without ids) of each image."""
    listed, annotations = [], []
    for number, (name, instances) in enumerate(images, 100):
        listed.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for each in instances:
            annotations.append({"id": len(annotations), "image_id": number, "iscrowd": 0} | each)
    categories = [{"id": k + 7, "name": name} for k, name in enumerate(names)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def instance(name: str, pixels: np.ndarray, **more: object) -> dict:
    """Returns an annotation of COCO's."""
    return {"category_id": CLASSES.index(name) + 7, "segmentation": run_lengths(pixels), **more}


def stroke(name: str, pixels: np.ndarray, **more: object) -> dict:
    """Returns a result of Label Studio's."""
    value = {"format": "rle", "rle": encode_brush(pixels > 0).tolist(), "brushlabels": [name]}
    sizes = {"original_height": pixels.shape[0], "original_width": pixels.shape[1]}
    return {"type": "brushlabels", "value": value, "image_rotation": 0, **sizes, **more}


def task(address: str, *results: dict, **annotation: object) -> dict:
    """Returns a task of Label Studio's with one annotation."""
    return {"data": {"image": address}, "annotations": [{"result": [*results], **annotation}]}


def labelme(*shapes: dict, size: tuple = SIZE) -> dict:
    """Returns a file of labelme's."""
    return {"version": "5", "imageHeight": size[0], "imageWidth": size[1], "shapes": [*shapes]}


def labelme_mask(name: str, pixels: np.ndarray) -> dict:
    """Returns a shape of labelme's: a PNG of the part of the image that holds the mask."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    mask = png_text(pixels[top : bottom + 1, left : right + 1].astype(np.uint8))
    corners = [[int(left), int(top)], [int(right), int(bottom)]]
    return {"label": name, "shape_type": "mask", "points": corners, "mask": mask}


def png_text(pixels: np.ndarray) -> str:
    """Returns a PNG as the text that a JSON file holds."""
    return base64.b64encode(encode(pixels, "PNG")).decode()


def write(path: Path, content: object) -> Path:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


ODD = [None, True, -1, 0, 1.5, 1e308, float("nan"), float("inf"), 10**40, "", "x", "n1.png", "cat"]
ODD += ["\ud800", "9" * 500, [], {}, [[]], {"size": 5}, {"rle": []}]


def altered(value: object, rng: random.Random) -> str:
    """Returns JSON in which one part, at any depth, is removed, doubled, moved or another."""
    node = value = json.loads(json.dumps(value))
    while True:
        key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
        inner = node[key]
        if not inner or not isinstance(inner, dict | list) or rng.random() < 0.3:
            break
        node = inner
    change = rng.choice(["remove", "double", "move", "replace", "replace"])
    if change == "remove":
        del node[key]
    elif change == "double" and isinstance(node, dict):
        node["a second time"] = rng.choice([inner, *ODD])
        return json.dumps(value).replace('"a second time"', json.dumps(key))
    elif change in ("double", "move") and isinstance(node, list):
        node.insert(rng.randrange(len(node)), inner if change == "double" else node.pop(key))
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value)


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Returns a mask of boxes: top, left, bottom, right; the last two lie outside."""
    pixels = np.zeros(SIZE, bool)
    for top, left, bottom, right in corners:
        pixels[top:bottom, left:right] = True
    return pixels


CAT, DOG = boxes((1, 1, 8, 9)), boxes((4, 5, 11, 16), (0, 14, 2, 17))
EXPECTED = np.where(CAT, 1, np.where(DOG, 2, 0))
"""Of equal scores the smaller one, the cat, lies above."""

TRIANGLE = [[1.5, 2.0], [15.0, 3.5], [6.0, 10.5]]
