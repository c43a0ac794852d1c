"""Data sets whose masks hold a value of their own for each class."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.ground_truth import RelabelledMask
from pipeline.engine.sample import Sample


def read_label_maps(
    maps: Path, images: Path, cache: Path, table: tuple[tuple[int, int], ...]
) -> list[Sample]:
    """Returns a sample for each PNG of a folder whose values are not labels.

    Args:
        maps: the folder of ``<id>.png``.
        images: the folder of ``<id>.jpg``.
        cache: the folder that keeps the converted masks.
        table: (value, label) pairs.
    """
    # mmsegmentation's converter of COCO-Stuff leaves files of its own among the maps.
    paths = sorted(p for p in maps.glob("*.png") if not p.stem.endswith("_labelTrainIds"))
    return [
        Sample(p.stem, images / f"{p.stem}.jpg", RelabelledMask(cache / p.name, p, table))
        for p in paths
    ]
