"""Finds the images named on a command line, and names their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.folder import find_images
from pipeline.engine.sample import Sample
from pipeline.errors import UserError
from pipeline.files.images import SUFFIXES


@dataclass(frozen=True)
class Inputs:
    """The images among the given files and folders.

    Attributes:
        samples: each image once; its id is the path of its results without their suffix.
        problems: a sentence for each path without an image.
        remarks: a sentence for each result whose name differs from that of its image.
    """

    samples: list[Sample]
    problems: list[str]
    remarks: list[str]


def find_inputs(given: Sequence[Path], output: Path) -> Inputs:
    """Finds the images among files and folders, and names their results.

    The name of a result is the path of its image below the given folder, or the name of the given
    file. If several images have the same name, all but the first get a number.

    Args:
        given: files with any suffix; folders, which are searched for JPEG, PNG and WebP files at
            any depth, as for ``dataset=folder``.
        output: the folder of the results; images in it are skipped.

    Raises:
        UserError: results would lie beside images.
    """
    named: list[tuple[Path, str]] = []
    problems = []
    for path in given:
        if path.is_dir():
            images = _images_outside(path, output)
            named += [
                (image, image.relative_to(path).with_suffix("").as_posix()) for image in images
            ]
            if not images:
                problems.append(f"{path} contains no image ({', '.join(sorted(SUFFIXES))})")
        elif path.is_file():
            named.append((path, path.stem))
        else:
            problems.append(f"{path} does not exist")
    samples: dict[Path, Sample] = {}
    taken: set[str] = set()
    remarks = []
    for path, name in named:
        place = _place(path)
        if place in samples:
            continue  # given twice, or in a given folder
        free, number = name, 1
        # Some file systems ignore case.
        while free.casefold() in taken:
            number += 1
            free = f"{name}_{number}"
        if free != name:
            remarks.append(f"the results of {path} are named {free}, because {name} is taken")
        taken.add(free.casefold())
        samples[place] = Sample(free, path)
    _refuse_mixing(samples, output)
    return Inputs(list(samples.values()), problems, remarks)


def _images_outside(folder: Path, output: Path) -> list[Path]:
    """Returns the images of a folder, sorted, without those in an output folder below it."""
    place = output.resolve()
    below = folder.resolve() in place.parents
    found, _ = find_images(folder)
    return [p for p in sorted(found) if not (below and place in _place(p).parents)]


def _place(path: Path) -> Path:
    """Returns the absolute path of a file; a link is not followed."""
    return path.parent.resolve() / path.name


def _refuse_mixing(samples: dict[Path, Sample], output: Path) -> None:
    """Refuses results beside images, which they could replace, or join as inputs of a later run."""
    folders = {place.parent for place in samples}
    for sample in samples.values():
        folder = (output.resolve() / sample.id).parent
        if folder in folders:
            raise UserError(
                f"the results of {sample.image} would lie among the images in {folder}: give"
                " another --output"
            )
