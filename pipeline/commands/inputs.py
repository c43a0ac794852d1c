"""The images that a person names on a command line, and what their results are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.folder import find_images
from pipeline.datasets.sample import Sample
from pipeline.errors import UserError
from pipeline.files.images import SUFFIXES


@dataclass(frozen=True)
class Inputs:
    """What was found among the files and folders that were named.

    Attributes:
        samples: each image once, its id the path of its results without their ending.
        problems: a sentence for everything that is no image.
        remarks: a sentence for every result that is not named as its image is.
    """

    samples: list[Sample]
    problems: list[str]
    remarks: list[str]


def find_inputs(given: Sequence[Path], output: Path) -> Inputs:
    """Finds the images among files and folders, and names their results.

    A result has the path of its image below the folder that was given, or the name of the file
    that was given. Where several images would have the same, all but the first get a number.

    Args:
        given: files of any ending; folders, in which JPEG, PNG and WebP files are found at any
            depth, as for ``dataset=folder``.
        output: where results go; where that is in a folder that was given, it is passed over.

    Raises:
        UserError: results would lie among the images.
    """
    found: list[tuple[Path, str]] = []
    problems = []
    for path in given:
        if path.is_dir():
            images = _images_outside(path, output)
            found += [
                (image, image.relative_to(path).with_suffix("").as_posix()) for image in images
            ]
            if not images:
                problems.append(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
        elif path.is_file():
            found.append((path, path.stem))
        else:
            problems.append(f"{path} does not exist")
    samples: dict[Path, Sample] = {}
    taken: set[str] = set()
    remarks = []
    for path, name in found:
        place = _place(path)
        if place in samples:
            continue  # named twice, or in a folder that was given too
        free, number = name, 1
        # Some file systems do not tell upper from lower case.
        while free.casefold() in taken:
            number += 1
            free = f"{name}_{number}"
        if free != name:
            remarks.append(f"the results of {path} are named {free}, since another's are {name}")
        taken.add(free.casefold())
        samples[place] = Sample(free, path)
    _refuse_mixing(samples, output)
    return Inputs(list(samples.values()), problems, remarks)


def _images_outside(folder: Path, output: Path) -> list[Path]:
    """Returns a folder's images, in order, without those in an output folder below it."""
    place = output.resolve()
    below = folder.resolve() in place.parents
    return [p for p in sorted(find_images(folder)) if not (below and place in _place(p).parents)]


def _place(path: Path) -> Path:
    """Returns where a file lies, whatever it is a link to."""
    return path.parent.resolve() / path.name


def _refuse_mixing(samples: dict[Path, Sample], output: Path) -> None:
    """Refuses results beside images: they would replace some, or be segmented the next time."""
    folders = {place.parent for place in samples}
    for sample in samples.values():
        folder = (output.resolve() / sample.id).parent
        if folder in folders:
            raise UserError(
                f"the results of {sample.image} would lie among the images, in {folder}: give"
                " another --output"
            )
