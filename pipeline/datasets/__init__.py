"""Data sets: finding images, and the ground truth that is available, on disk."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from pipeline.configuration.settings import check
from pipeline.datasets.settings import (
    RENDERED,
    CocoSettings,
    ContextSettings,
    DatasetSettings,
    LabelMapSettings,
    VocSettings,
)
from pipeline.errors import check_choice, shown

if TYPE_CHECKING:
    from pipeline.engine.sample import Dataset

Reader = Callable[..., "Dataset"]
"""Reads a data set by its settings."""

_VOC = ("pipeline.datasets.voc:load_voc", VocSettings)
_COCO = ("pipeline.datasets.coco:load_coco", CocoSettings)
_CONTEXT = ("pipeline.datasets.pascal_context:load_context", ContextSettings)
_COCOSTUFF = ("pipeline.datasets.label_maps:load_cocostuff", LabelMapSettings)

READERS: dict[str, tuple[Reader | str, type[DatasetSettings]]] = {
    **dict.fromkeys(RENDERED, ("pipeline.datasets.demo:load_demo", DatasetSettings)),
    "folder": ("pipeline.datasets.folder:load_folder", DatasetSettings),
    **dict.fromkeys(("voc2007", "voc2012", "voc20"), _VOC),
    **dict.fromkeys(("coco2014", "coco2017"), _COCO),
    **dict.fromkeys(("cocostuff", "coco_object"), _COCOSTUFF),
    **dict.fromkeys(("context59", "context60"), _CONTEXT),
    "cityscapes": ("pipeline.datasets.label_maps:load_cityscapes", LabelMapSettings),
    "ade20k": ("pipeline.datasets.label_maps:load_ade20k", LabelMapSettings),
}
"""``dataset.name`` → its reader, or the name of it, and the settings that the reader takes."""


def find_reader(name: str) -> tuple[Reader, type[DatasetSettings]]:
    """Returns the reader of a data set and its settings; raises a UserError if there is none."""
    settings = settings_of(name)
    reader, _ = READERS[name]
    return resolve_name(reader) if isinstance(reader, str) else reader, settings


def settings_of(name: str) -> type[DatasetSettings]:
    """Returns the class of the settings of a data set; raises as :func:`find_reader`."""
    check_choice(f"there is no data set {shown(name)}", name, READERS)
    return READERS[name][1]


def load_dataset(settings: DatasetSettings, workers: int = 1) -> "Dataset":
    """Reads a data set; ``workers`` processes render scenes.

    The settings are of the class that :func:`find_reader` returns. Raises a UserError if the
    settings or the layout of the data set are not as expected; the message gives what was expected
    and what is there.
    """
    # These import NumPy.
    from pipeline.datasets.ground_truth import ignore_background
    from pipeline.datasets.lists import apply_lists

    check(settings, "dataset")
    reader, _ = find_reader(settings.name)
    more = (workers,) if settings.name in RENDERED else ()
    dataset = apply_lists(reader(settings, *more), settings)
    return ignore_background(dataset) if settings.ignore_background else dataset
