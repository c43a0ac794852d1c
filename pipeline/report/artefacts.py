"""The folders of finished stages, read without the settings of their run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.vocabulary import BACKGROUND, voc_palette
from pipeline.engine.folder import ENTRIES, MANIFEST
from pipeline.errors import ImageError, UserError
from pipeline.files.atomic import read_json
from pipeline.files.images import SUFFIXES
from pipeline.files.journal import Journal
from pipeline.report.runs import flatten

STAGES = ("tags", "cams", "masks", "predictions")


@dataclass(frozen=True)
class Artefact:
    """A finished per-image stage."""

    path: Path
    stage: str  # one of STAGES
    classes: tuple[str, ...]
    apply_exif: bool  # whether its images were rotated as their EXIF orientation says
    entries: Mapping[str, Mapping[str, Any]]  # id → what the stage recorded of the image

    @property
    def names(self) -> tuple[str, ...]:
        """The n+1 names of labels, the background's first."""
        return (BACKGROUND, *self.classes)

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The n+1 colours of labels."""
        return voc_palette(256)[: len(self.classes) + 1]


def read_artefact(path: Path) -> Artefact:
    """Reads a finished stage's folder.

    Raises:
        UserError: it is not such a folder.
    """
    manifest = read_json(path / MANIFEST) or {}
    stage, configuration = manifest.get("stage"), manifest.get("configuration")
    if stage not in STAGES or not isinstance(configuration, Mapping):
        raise UserError(
            f"{path} is not a finished folder of {', '.join(STAGES[:-1])} or {STAGES[-1]}: give one"
            " such as outputs/demo/val/masks/latest"
        )
    settings = {key.rpartition(".")[2]: value for key, value in flatten(configuration).items()}
    classes = settings.get("classes")
    if not isinstance(classes, list):
        raise UserError(f"{path / MANIFEST} names no classes: run stage={stage} again")
    return Artefact(
        path=path,
        stage=stage,
        classes=tuple(map(str, classes)),
        apply_exif=settings.get("exif") is False,
        entries=Journal(path / ENTRIES).entries,
    )


def find_photograph(root: Path, image_id: str) -> Path:
    """Returns the image file of an id below the image root.

    Raises:
        ImageError: there is none.
    """
    endings = sorted(SUFFIXES)
    for ending in (e for suffix in endings for e in (suffix, suffix.upper())):
        if (path := root / f"{image_id}{ending}").is_file():
            return path
    raise ImageError(f"no image {root / image_id} ({', '.join(endings)})")
