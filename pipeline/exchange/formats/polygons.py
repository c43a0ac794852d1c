"""Masks as polygons, with their photographs: data sets of labelme and of YOLO.

Each connected component is a polygon. A line joins a hole to the outline around it, since neither
format has holes. Label 255 has no polygon.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import yaml

from pipeline.datasets.annotation_index import LABELME, AnnotationIndex, labelme_entry
from pipeline.exchange.formats.data_set import DataSet

_OFFSET = 0.25  # of a pixel, so that readers find it by rounding and by truncating


class Labelme(DataSet):
    """DEST/<split>/<id>.json beside <id>.jpg; the points are pixels, as labelme draws them."""

    photographs = annotations = "{}"
    suffix = ".json"
    is_shared = True

    def encode(self, image_id: str, labels: np.ndarray) -> str:
        """Implements the base class."""
        polygon = {"shape_type": "polygon", "group_id": None, "description": "", "flags": {}}
        shapes = [
            {"label": self.artefact.classes[k], "points": outline.astype(float).tolist(), **polygon}
            for k, outline in self.outlines.trace(labels)
        ]
        content = {
            "version": "6.3.1",  # of labelme, whose loader the tests use
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{PurePosixPath(image_id).name}{self.suffixes[image_id]}",
            "imageData": None,
            "imageHeight": labels.shape[0],
            "imageWidth": labels.shape[1],
        }
        return json.dumps(content, ensure_ascii=False, indent=1)

    def painted(self, labels: np.ndarray, data: str) -> str:
        """Implements the base class, by the shapes."""
        read = AnnotationIndex(LABELME).add_image("", lambda: labelme_entry(json.loads(data)))
        return read.content


class Yolo(DataSet):
    """DEST/images/<split>/<id>.jpg, DEST/labels/<split>/<id>.txt and DEST/data.yaml.

    The folders are flat, since readers do not look below: an id has %2F for /.
    """

    photographs, annotations, suffix = "images/{}", "labels/{}", ".txt"

    def name(self, image_id: str) -> str:
        """Implements the base class."""
        return image_id.replace("%", "%25").replace("/", "%2F")

    def encode(self, image_id: str, labels: np.ndarray) -> str:
        """Implements the base class: class and points of a component a line, in [0, 1]."""
        lines = []
        for k, outline in self.outlines.trace(labels):
            points = (outline + _OFFSET) / labels.shape[::-1]
            lines.append(" ".join([str(k), *(f"{value:.6f}" for value in points.ravel())]) + "\n")
        return "".join(lines)

    def index(self, written: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Implements the base class: the splits, with those written before, and the classes."""
        splits = {path.name for path in (self.target / "images").glob("*/")} | {self.split}
        folders = {split: f"images/{split}" for split in sorted(splits)}
        names = yaml.safe_dump({"names": [*self.artefact.classes]}, allow_unicode=True)
        self.refuse_other_classes("data.yaml", names)
        return {"data.yaml": yaml.safe_dump(folders, allow_unicode=True) + names}
