"""Data sets: how images, and whatever ground truth there is, are found on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.datasets.ade20k import load_ade20k
from pipeline.datasets.coco import load_coco, load_cocostuff
from pipeline.datasets.demo import load_demo
from pipeline.datasets.folder import load_folder
from pipeline.datasets.lists import apply_lists
from pipeline.datasets.sample import Dataset
from pipeline.datasets.voc import load_voc
from pipeline.errors import UserError

_READERS = {
    "folder": load_folder,
    "voc2007": load_voc,
    "voc2012": load_voc,
    "coco2014": load_coco,
    "coco2017": load_coco,
    "cocostuff": load_cocostuff,
    "ade20k": load_ade20k,
}


def load_dataset(settings: Mapping[str, Any], workers: int) -> Dataset:
    """Reads a data set by the ``dataset`` configuration.

    Args:
        settings: ``name`` and what that reader needs.
        workers: processes that render the demo's scenes on first use.

    Raises:
        UserError: a data set that is not as expected.
    """
    name = settings["name"]
    if name == "demo":
        return apply_lists(load_demo(settings, workers), settings)
    if name not in _READERS:
        raise UserError(f"there is no data set {name}: choose from demo, {', '.join(_READERS)}")
    return apply_lists(_READERS[name](settings), settings)
