"""Finds the images named on a command line, and names their results."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.datasets.folder import find_images
from pipeline.engine.sample import Sample
from pipeline.errors import UserError, shown
from pipeline.files.images import SUFFIXES

_MAX_NAME = 255  # bytes of a file's name


class Inputs(NamedTuple):
    """The images among the given files and folders."""

    samples: list[Sample]  # each image once; its id is the path of its results without a suffix
    problems: list[str]  # a sentence for each path without an image
    left_out: list[str]  # a sentence for each image that cannot have results
    remarks: list[str]  # sentences on other files, and on results named unlike their image


def find_inputs(given: Sequence[Path], output: Path, endings: Sequence[str] = ()) -> Inputs:
    """Finds the images among files and folders, and names their results, which end in ``endings``.

    Files may have any suffix; folders are searched as for ``dataset=folder``, apart from the folder
    ``output`` of the results. The name of a result is the path of its image below the given folder,
    or the name of the given file. Of images with the same name all but the first get a number.
    Raises a UserError if results would lie beside images.
    """
    named: list[tuple[str, Path]] = []
    results_below = output.resolve()
    problems, remarks, left_out = [], [], []
    for path in given:
        if path.is_dir():
            images, skipped, notes = find_images(path)
            if path.resolve() in results_below.parents:
                images = [each for each in images if results_below not in _place(each[1]).parents]
            remarks += notes
            left_out += [f"{path / below} {reason}" for below, reason in skipped]
            named += images
            if not images:
                problems.append(f"{path} contains no image ({', '.join(SUFFIXES)})")
        elif path.is_file():
            named.append((path.stem, path))
        else:
            problems.append(f"{path} does not exist")
    samples: dict[Path, Sample] = {}
    taken: set[str] = set()
    for name, path in named:
        if _place(path) in samples:
            continue  # given twice, or in a given folder
        free, number = name, 1
        while free.casefold() in taken:  # some file systems ignore case
            number += 1
            free = f"{name}_{number}"
        if free != name:
            remarks.append(f"the results of {path} are named {free}, because {name} is taken")
        taken.add(free.casefold())
        samples[_place(path)] = Sample(free, path)
    # Results could replace images that they lie beside, or join them as inputs of a later run.
    folders = {place.parent for place in samples}
    for sample in samples.values():
        folder = (results_below / sample.id).parent
        if folder in folders:
            raise UserError(
                f"the results of {sample.image} would be among the images in {folder}: give"
                " another --output"
            )
    parents = {str(p).casefold() for s in samples.values() for p in PurePosixPath(s.id).parents}
    kept = []
    for sample in samples.values():
        results = [f"{sample.id}{ending}" for ending in endings]
        if any(len(os.fsencode(Path(name).name)) > _MAX_NAME for name in results):
            reason = "has too long a name for its results: shorten it"
            left_out.append(f"{shown(sample.image)} {reason}")
        elif clash := [name for name in results if name.casefold() in parents]:
            reason = f"has the result {clash[0]}, which is also the name of a folder: rename one"
            left_out.append(f"{sample.image} {reason}")
        else:
            kept.append(sample)
    return Inputs(kept, problems, left_out, remarks)


def _place(path: Path) -> Path:
    """Returns the absolute path of a file; a link is not followed."""
    return path.parent.resolve() / path.name
