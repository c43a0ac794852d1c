"""The loop of all exports: image by image, naming those that are skipped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.engine.progress import track
from pipeline.errors import ImageError, UserError, tell
from pipeline.exchange.artefacts import Artefact
from pipeline.files import label_images
from pipeline.files.label_images import IGNORE

Name = TypeVar("Name")
Result = TypeVar("Result")


@dataclass
class Export:
    """The outcome of an export."""

    written: int = 0  # images
    left_out: dict[Any, str] = field(default_factory=dict)  # id, or another name → why
    notes: list[str] = field(default_factory=list)  # what the user has to know, a sentence each

    def each(
        self,
        images: Sequence[Name],
        convert: Callable[[Name], Result],
        title: str = "export",
        note: str = "left out",
    ) -> Iterator[tuple[Name, Result]]:
        """Converts images one after the other, and yields their ids, or other names, with results.

        An :class:`ImageError`, a :class:`UserError`, a :class:`ValueError` or an :class:`OSError`
        of ``convert`` leaves an image out; so refuse files of others before, by
        :meth:`~pipeline.files.own_files.OwnFiles.refuse_foreign`. ``title`` stands before the
        progress bar, and ``note`` behind the number of skipped images.
        """
        with track(title, len(images)) as advance:
            for name in images:
                try:
                    result = convert(name)
                except FileNotFoundError as error:
                    self.left_out[name] = f"{error.filename} is missing"
                except OSError as error:
                    reason = f"{error.filename or 'a file'}: {error.strerror or error}"
                    self.left_out[name] = reason
                except (ImageError, UserError, ValueError) as error:
                    self.left_out[name] = str(error)
                else:
                    yield name, result
                    self.written += 1
                advance(note=f"{len(self.left_out)} {note}" if self.left_out else "")

    def refuse_left_out(self, sentence: str, prefix: str = "left out: ") -> None:
        """Names every skipped image on stderr.

        Raises:
            UserError: there is any: their number, and then the sentence.
        """
        for name, reason in self.left_out.items():
            tell(f"{prefix}{name}: {reason}")
        if self.left_out:
            raise UserError(f"{len(self.left_out)} {sentence}")


def read_artefact_labels(artefact: Artefact, image_id: str) -> np.ndarray:
    """Reads the mask of an image: H×W uint8; 0 background, k+1 class k, 255 ignore.

    Raises:
        FileNotFoundError: the file is missing.
        ImageError: see :meth:`~pipeline.exchange.artefacts.Artefact.refuse_changed`.
        UserError: it is damaged, or holds other labels.
    """
    artefact.refuse_changed(image_id)
    path, num_classes = artefact.path / f"{image_id}.png", len(artefact.classes)
    labels = label_images.read_labels(path)
    highest = int(labels.max(initial=0, where=labels != IGNORE))
    if highest > num_classes:
        raise UserError(
            f"{path} holds label {highest} of {num_classes} classes: run the stage again"
        )
    return labels


def target_path(folder: Path, name: str) -> Path:
    """Returns the path of a file in the output folder.

    Raises:
        ImageError: the name leads out of the folder.
    """
    path = folder / name
    # Resolve the parent only: the file may be a link that an earlier export made.
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ImageError("its id leaves the output folder: rename the image")
    return path
