"""The images and masks that a segmenter is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.engine.sample import Images, Sample
from pipeline.engine.scan import available, open_folder
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.masks.mask_files import PROBABILITY
from pipeline.segmenter.pairs import TrainingPair


class TrainingData(Protocol):
    """Where masks come from."""

    def facts(self) -> dict[str, Any]:
        """Returns what names the source in a cache key, where it is not a stage."""

    def applies(self) -> bool:
        """Tells whether the data set has such masks."""

    def pairs(self) -> list[TrainingPair]:
        """Returns the images, each with its mask.

        Raises:
            UserError: there are no masks yet.
        """

    def samples(self) -> Sequence[Sample]:
        """Returns the images."""


@dataclass(frozen=True)
class StageMasks:
    """The masks of a stage.

    Attributes:
        masks: returns the stage.
        images: those of the run.
        store: the output directory.
        weighted: whether the probabilities beside the masks weight their pixels.
    """

    masks: Stage
    images: Images
    store: Store
    weighted: bool

    def facts(self) -> dict[str, Any]:
        """Returns nothing: the stage is a need."""
        return {}

    def applies(self) -> bool:
        """Tells that every data set has such masks."""
        return True

    def samples(self) -> list[Sample]:
        """Returns the images that have a mask."""
        return available(self.masks, self.images, self.store)

    def pairs(self) -> list[TrainingPair]:
        """Returns the images, each with its mask."""
        folder = open_folder(self.masks, self.store).path
        beside = folder / PROBABILITY
        return [
            TrainingPair(
                s.id,
                s.image,
                folder / f"{s.id}.png",
                beside / f"{s.id}.png" if self.weighted else None,
            )
            for s in self.samples()
        ]


@dataclass(frozen=True)
class FolderMasks:
    """Masks in a folder: ``segmenter.masks``.

    Attributes:
        folder: the folder, which holds <id>.png.
        samples: returns the images.
    """

    folder: str
    samples: Callable[[], Sequence[Sample]]

    def facts(self) -> dict[str, Any]:
        """Returns that masks were given."""
        return {"masks": {"from": "files"}}

    def applies(self) -> bool:
        """Tells that they are given, whatever the data set has."""
        return True

    def pairs(self) -> list[TrainingPair]:
        """Returns the images, each with its mask."""
        folder = Path(self.folder).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(
                f"segmenter.masks={self.folder} is not a folder: give one that holds <id>.png"
            )
        return [TrainingPair(s.id, s.image, folder / f"{s.id}.png") for s in self.samples()]


@dataclass(frozen=True)
class GroundTruthMasks:
    """The masks of the data set, for a fully supervised segmenter.

    Attributes:
        samples: returns the images.
    """

    samples: Callable[[], Sequence[Sample]]

    def facts(self) -> dict[str, Any]:
        """Returns that the ground truth is used, which is certain of every pixel."""
        return {"masks": "ground truth", "pixel_weights": None}

    def applies(self) -> bool:
        """Tells whether every image has a mask."""
        return all(s.mask is not None for s in self.samples())

    def pairs(self) -> list[TrainingPair]:
        """Returns the images, each with its mask."""
        return [TrainingPair(s.id, s.image, s.mask.file()) for s in self.samples()]


def training_data_key(pairs: Sequence[TrainingPair]) -> str:
    """Returns the fingerprint of the contents of all files that a training reads."""
    return fingerprint([[pair.id, *map(_content, pair.files)] for pair in pairs])


def _content(path: Path) -> str | None:
    # Missing files are listed, all of them, before the training begins.
    return fingerprint_file(path) if path.is_file() else None
