"""The stage ``cams`` where maps come from files that others made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cams.clip_es_files import read_clip_es
from pipeline.cams.stage import Cams, encode_cams
from pipeline.clip.pixels import patch_grid
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.engine.folder import ResultFolder
from pipeline.engine.pool import in_processes
from pipeline.errors import ImageError, UserError, shown
from pipeline.files.fingerprints import fingerprint_file, join_keys
from pipeline.files.text import given_path
from pipeline.sweep import Todo, Work

METHOD = "file"
"""What ``cams.method`` is called."""

ALGORITHM = 1
"""Raised when the same configuration would give another result than before."""

_MOST_UNWRITTEN = 4


def is_chosen(config: Mapping[str, Any]) -> bool:
    """Tells whether maps come from files, ``cams=file``, and depend on neither tags nor CLIP."""
    return config["cams"].get("method") == METHOD


def configuration(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Returns what the maps depend on, apart from the files, which the key of each image names.

    The folder's name is part of it, so that maps of two methods can be compared.

    Args:
        config: the whole configuration, as plain dictionaries.
        classes: the n class names.
    """
    cams = config["cams"]
    return {
        "algorithm": ALGORITHM,
        "method": METHOD,
        "folder": given_path(str(cams["path"]), "cams.path").absolute().name,
        "cell_size": cams["cell_size"],
        "classes": list(classes),
        "longest_side": config["images"]["longest_side"],
        "exif": config["compat"]["exif"],
    }


def given_folder(settings: Mapping[str, Any]) -> Path:
    """Returns the folder of the files that the configuration of ``cams`` names.

    Raises:
        UserError: it is none, or cells are to have no size.
    """
    given = settings["path"]
    path = given_path(str(given), "cams.path").absolute()
    if not path.is_dir():
        raise UserError(f"cams.path={shown(given)} is no folder: give one that holds <id>.npy")
    cell_size = settings["cell_size"]
    if not isinstance(cell_size, int) or cell_size < 1:
        raise UserError(f"cams.cell_size={shown(cell_size)} is no number of pixels: give 4")
    return path


def input_key(sample: Sample, maps: Path) -> str:
    """Returns the fingerprint of an image and of its file in the folder ``maps``.

    Raises:
        ImageError: there is no such file.
    """
    path = _file_of(sample, maps)
    if not path.is_file():
        raise ImageError(f"has no maps: {path} is missing")
    return join_keys(fingerprint_file(sample.image), fingerprint_file(path))


def importing(
    folder: ResultFolder,
    maps: Path,
    *,
    read: ImageReader,
    cell_size: int,
    class_count: int,
    workers: int,
) -> Work:
    """Returns how the maps of images are taken from files, in processes.

    Args:
        folder: the stage's folder.
        maps: the folder with ``<id>.npy``.
        read: decodes the images, whose sizes maps must have.
        cell_size: side, in pixels, of the squares over which finer maps are averaged.
        class_count: n.
        workers: processes.
    """
    compute_one = partial(
        _import_one,
        maps=maps,
        read=read,
        cell_size=cell_size,
        class_count=class_count,
    )

    def compute(images: list[Todo]) -> Iterator[tuple[Todo, Cams | ImageError]]:
        portable = (todo.for_worker() for todo in images)
        yield from in_processes(portable, compute_one, min(workers, len(images)))

    def save(todo: Todo, cams: Cams) -> None:
        folder.write(todo.sample.id, todo.key, {f"{todo.sample.id}.npz": encode_cams(cams)})

    return Work([folder], compute, save, most_unwritten=_MOST_UNWRITTEN)


def _import_one(
    todo: Todo,
    *,
    maps: Path,
    read: ImageReader,
    cell_size: int,
    class_count: int,
) -> Cams | ImageError:
    """Does one image, in whatever process."""
    try:
        image, size = read(todo.sample)
        grid = patch_grid(*image.shape[:2], cell_size)
        return read_clip_es(_file_of(todo.sample, maps), size, grid, class_count)
    except ImageError as error:
        return error


def _file_of(sample: Sample, maps: Path) -> Path:
    return maps / f"{sample.id}.npy"
