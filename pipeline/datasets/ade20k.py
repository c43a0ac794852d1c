"""ADE20K's scene parsing benchmark (150 classes), in the layout of the download."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.datasets.label_maps import read_label_maps
from pipeline.datasets.layout import existing_folder, find_root, first_existing, require_splits
from pipeline.datasets.lists import value_table
from pipeline.datasets.settings import LabelMapSettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Dataset, Sample, Splits


def load_ade20k(settings: LabelMapSettings) -> Dataset:
    """Reads the splits of ADEChallengeData2016.

    Args:
        settings: ``root`` is the folder that holds ``images`` and ``annotations``, or its parent;
            ``splits`` gives the names of their subfolders. In ``values``, 0 ("other") is left out.

    Raises:
        UserError: the layout differs; the message gives what was expected and what is there.
    """
    vocabulary = build_vocabulary(settings)
    given = existing_folder(settings.root, "root", settings.guide)
    root = find_root(given, ["ADEChallengeData2016"], "annotations", settings.guide)
    table = value_table(settings.values, vocabulary.classes)
    readers = {
        split: partial(_read_split, root, name, table, settings)
        for split, name in settings.splits.items()
        if (root / "annotations" / name).is_dir()
    }
    places = {split: f"annotations/{name}" for split, name in settings.splits.items()}
    require_splits(settings, readers, root, places)
    return Dataset(vocabulary, Splits(readers), settings.train_split)


def _read_split(root: Path, name: str, table: tuple, settings: LabelMapSettings) -> list[Sample]:
    images = first_existing(root / "images", [name], settings.guide)
    return read_label_maps(root / "annotations" / name, images, Path(settings.cache) / name, table)
