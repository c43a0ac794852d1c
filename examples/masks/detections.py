"""Writes a DetectionDataset of supervision, as autodistill returns it, as COCO's JSON.

>>> from detections import write_detections
>>> write_detections("masks.json", base_model.label("PHOTOS"), "PHOTOS")
"""

from pathlib import Path

from coco_file import run_lengths, write_coco


def instances(dataset, found):
    """Yields name, score and run lengths of the detections of an image."""
    for i in range(len(found)):
        score = 1.0 if found.confidence is None else float(found.confidence[i])
        yield dataset.classes[found.class_id[i]], score, run_lengths(found.mask[i])


def write_detections(output, dataset, photos):
    """Writes the masks of a data set whose images are below the folder ``photos``."""

    def read_all():
        for path, image, found in dataset:
            name = Path(path).relative_to(photos).as_posix()
            yield name, *image.shape[:2], instances(dataset, found)

    write_coco(output, read_all())
