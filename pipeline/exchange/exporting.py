"""What all exports do: image by image, naming those that have to be left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.datasets.vocabulary import IGNORE
from pipeline.engine.progress import track
from pipeline.errors import ImageError, UserError
from pipeline.files import label_images
from pipeline.report.artefacts import Artefact

Result = TypeVar("Result")


@dataclass
class Export:
    """What became of an export.

    Attributes:
        written: images that were written.
        left_out: id → why an image was not.
        notes: what a person has to know about the result, a sentence each.
    """

    written: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def each(
        self, artefact: Artefact, work: Callable[[str], Result]
    ) -> Iterator[tuple[str, Result]]:
        """Does work on every image of a stage's folder, in the order of the ids.

        Args:
            artefact: the stage's folder.
            work: raises an :class:`ImageError`, :class:`UserError` or :class:`FileNotFoundError`
                for an image that has to be left out.

        Yields:
            Ids with the work's results.

        Raises:
            UserError: there is no image at all.
        """
        if not artefact.entries:
            raise UserError(f"{artefact.path} holds no image: run stage={artefact.stage} first")
        with track("export", len(artefact.entries)) as advance:
            for image_id in sorted(artefact.entries):
                try:
                    result = work(image_id)
                except FileNotFoundError as error:
                    self.left_out[image_id] = f"{error.filename} is missing"
                except (ImageError, UserError) as error:
                    self.left_out[image_id] = str(error)
                else:
                    yield image_id, result
                    self.written += 1
                advance(note=f"{len(self.left_out)} left out" if self.left_out else None)


def read_labels(artefact: Artefact, image_id: str) -> np.ndarray:
    """Reads the mask of an image: H×W uint8; 0 background, k+1 class k, 255 ignore.

    Raises:
        UserError: the file is missing or damaged, or holds other labels.
    """
    path = artefact.path / f"{image_id}.png"
    labels = label_images.read_labels(path)
    highest = int(labels.max(initial=0, where=labels != IGNORE))
    if highest > len(artefact.classes):
        raise UserError(f"{path} holds label {highest}, where there are {len(artefact.classes)}")
    return labels


def place(folder: Path, name: str) -> Path:
    """Returns where a file goes in the output folder.

    Raises:
        ImageError: the name leads out of it.
    """
    path = folder / name
    # Not the file itself, which may be a link to an image of an export before.
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ImageError("its id leaves the output folder: rename the image")
    return path
