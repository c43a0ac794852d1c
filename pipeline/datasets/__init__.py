"""Data sets: finding images, and the ground truth that is available, on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.datasets.background import ignore_background
from pipeline.datasets.coco import CocoSettings, load_coco
from pipeline.datasets.demo import load_demo
from pipeline.datasets.folder import load_folder
from pipeline.datasets.label_maps import load_ade20k, load_cocostuff
from pipeline.datasets.lists import apply_lists
from pipeline.datasets.scenes import RENDERED
from pipeline.datasets.settings import DatasetSettings, LabelMapSettings
from pipeline.datasets.voc import VocSettings, load_voc
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Dataset
from pipeline.engine.settings import check
from pipeline.errors import check_choice, shown

Reader = Callable[[Any], Dataset[Vocabulary]]

READERS: dict[str, tuple[Reader, type[DatasetSettings]]] = {
    **dict.fromkeys(RENDERED, (load_demo, DatasetSettings)),
    "folder": (load_folder, DatasetSettings),
    "voc2007": (load_voc, VocSettings),
    "voc2012": (load_voc, VocSettings),
    "voc20": (load_voc, VocSettings),
    "coco2014": (load_coco, CocoSettings),
    "coco2017": (load_coco, CocoSettings),
    "cocostuff": (load_cocostuff, LabelMapSettings),
    "coco_object": (load_cocostuff, LabelMapSettings),
    "ade20k": (load_ade20k, LabelMapSettings),
}
"""``dataset.name`` → its reader and the settings that the reader takes."""


def find_reader(name: str) -> tuple[Reader, type[DatasetSettings]]:
    """Returns the reader of a data set and the class of its settings.

    Raises:
        UserError: there is no such data set.
    """
    check_choice(f"there is no data set {shown(name)}", name, READERS)
    return READERS[name]


def load_dataset(settings: DatasetSettings, workers: int = 1) -> Dataset[Vocabulary]:
    """Reads a data set.

    Args:
        settings: of the class that :func:`find_reader` gives.
        workers: the number of processes that render scenes.

    Raises:
        UserError: the settings or the layout of the data set are not as expected; the message
            gives what was expected and what is there.
    """
    check(settings, "dataset")
    reader, _ = find_reader(settings.name)
    is_rendered = settings.name in RENDERED
    dataset = load_demo(settings, workers) if is_rendered else reader(settings)
    dataset = apply_lists(dataset, settings)
    return ignore_background(dataset, settings.cache) if settings.ignore_background else dataset
