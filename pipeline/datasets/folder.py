"""A person's own photographs: any tree of image files, without labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.layout import existing_root
from pipeline.datasets.sample import Dataset, Sample
from pipeline.errors import UserError
from pipeline.images import SUFFIXES
from pipeline.store import ENTRIES
from pipeline.vocabulary import build_vocabulary

SPLIT = "all"


def load_folder(settings: Mapping) -> Dataset:
    """Finds every JPEG, PNG and WebP file below ``dataset.root``; the one split is named "all".

    What the pipeline wrote is passed over, where the output directory lies below the photographs.

    Raises:
        UserError: no such folder, no image in it, or no class names.
    """
    vocabulary = build_vocabulary(settings)
    root = existing_root(settings)
    samples: dict[str, Sample] = {}
    rejected = []
    for path in sorted(find_images(root)):
        image_id = path.relative_to(root).with_suffix("").as_posix()
        if image_id in samples:
            # The artefacts of both would have one name.
            name = path.relative_to(root).as_posix()
            reason = f"has the same name as {samples[image_id].image.name}: rename one of them"
            rejected.append((name, reason))
            continue
        samples[image_id] = Sample(image_id, path)
    if not samples:
        endings = ", ".join(sorted(SUFFIXES))
        raise UserError(f"dataset.root={root} holds no image ({endings}): give another folder")
    return Dataset(vocabulary, {SPLIT: list(samples.values())}, SPLIT, {SPLIT: rejected})


def find_images(root: Path) -> list[Path]:
    """Returns the image files below a folder; links to folders are not followed (loops).

    Hidden files are passed over, and what the pipeline wrote.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not _holds_results(Path(folder, name))
        ]
        found += [
            Path(folder, name)
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return found


def _holds_results(folder: Path) -> bool:
    """Tells whether a folder is an output directory or a stage's: our masks are no photographs."""
    return (folder / ENTRIES).is_file() or any(folder.glob(f"*/tags/*/{ENTRIES}"))
