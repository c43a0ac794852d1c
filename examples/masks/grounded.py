"""Collects the JSON files of Grounded-SAM-2's demos as COCO's JSON.

python examples/masks/grounded.py RESULTS PHOTOS grounded.json
"""

import json
import sys
from pathlib import Path

import numpy as np
from coco_file import write_coco

RESULTS, PHOTOS, OUTPUT = sys.argv[1:]


def read_all():
    """Yields file name, height, width and instances of each image."""
    for path in sorted(Path(RESULTS).glob("*.json")):
        read = json.loads(path.read_text())
        instances = [
            (each["class_name"], float(np.ravel(each["score"])[0]), each["segmentation"])
            for each in read["annotations"]
        ]
        name = Path(read["image_path"]).relative_to(PHOTOS).as_posix()
        yield name, read["img_height"], read["img_width"], instances


write_coco(OUTPUT, read_all())
