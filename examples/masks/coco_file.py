"""Writes instances of any model as COCO's JSON, for masks=file; requires pycocotools."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask


def run_lengths(inside):
    """Returns COCO's run lengths of a mask, H×W."""
    region = mask.encode(np.asfortranarray(inside, np.uint8))
    return {**region, "counts": region["counts"].decode()}


def write_coco(output, images):
    """Writes images, each (file name, height, width, [(name, score, run lengths), …])."""
    categories, data = {}, {"images": [], "annotations": []}
    for image, (file_name, height, width, instances) in enumerate(images, 1):
        size = {"height": height, "width": width}
        data["images"].append({"id": image, "file_name": file_name, **size})
        for name, score, region in instances:
            category = categories.setdefault(name, len(categories) + 1)
            about = {"image_id": image, "category_id": category, "score": score, "iscrowd": 0}
            about |= {"bbox": mask.toBbox(region).tolist(), "area": int(mask.area(region))}
            about |= {"id": len(data["annotations"]) + 1, "segmentation": region}
            data["annotations"].append(about)
    data["categories"] = [{"id": number, "name": name} for name, number in categories.items()]
    Path(output).write_text(json.dumps(data), encoding="utf-8")
