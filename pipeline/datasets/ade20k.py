"""ADE20K's scene parsing benchmark (150 classes), in the layout of the download."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipeline.datasets.ground_truth import RelabelledMask
from pipeline.datasets.layout import existing_root, find_root, first_existing, require_splits
from pipeline.datasets.lists import value_table
from pipeline.datasets.sample import Dataset, Sample, Splits
from pipeline.datasets.vocabulary import build_vocabulary


def load_ade20k(settings: Mapping) -> Dataset:
    """Reads the splits of ADEChallengeData2016.

    Args:
        settings: ``root`` (the folder that holds ``images`` and ``annotations``, or the one above
            it), ``splits`` (split name → name of the folder), ``values`` (what class k is in the
            annotations; 0, "other", is ignored), ``cache`` and the vocabulary.

    Raises:
        UserError: the layout is not as expected; says what was looked for and what was found.
    """
    vocabulary = build_vocabulary(settings)
    section = settings["guide"]
    root = find_root(existing_root(settings), ["ADEChallengeData2016"], "annotations", section)
    table = value_table(settings["values"], vocabulary.classes)
    readers = {
        split: partial(_read_split, root, name, table, settings)
        for split, name in settings["splits"].items()
        if (root / "annotations" / name).is_dir()
    }
    places = {split: f"annotations/{name}" for split, name in settings["splits"].items()}
    require_splits(settings, readers, root, places)
    return Dataset(vocabulary, Splits(readers), settings["train_split"])


def _read_split(root: Path, name: str, table: tuple, settings: Mapping) -> list[Sample]:
    images = first_existing(root / "images", [name], settings["guide"])
    kept = Path(settings["cache"]) / name
    return [
        Sample(
            path.stem,
            images / f"{path.stem}.jpg",
            RelabelledMask(kept / path.name, path, table),
        )
        for path in sorted((root / "annotations" / name).glob("*.png"))
    ]
