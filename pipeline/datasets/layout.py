"""Finds a data set's folders and files; errors name what is missing and how to get it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.datasets.settings import BenchmarkSettings, split_names
from pipeline.engine.sample import Sample, Splits
from pipeline.errors import UserError
from pipeline.files.shipped import DATA_GUIDE
from pipeline.files.text import given_folder

_MAX_NAMED = 8


def find_root(
    settings: BenchmarkSettings, key: str = "root", marker: str = "", below: Iterable[str] = ()
) -> Path:
    """Returns the first folder that holds ``marker``: the one of the setting, or one ``below`` it.

    Raises a UserError that says how to get it if it is not a folder, or no folder holds it.
    """
    try:
        root = given_folder(getattr(settings, key), f"dataset.{key}", "the data set")
    except UserError as error:
        if settings.guide:
            raise UserError(f"{error}; {how_to_get(settings.guide)}") from error
        raise
    for candidate in (root, *(root / name for name in below)):
        if (candidate / marker).exists():
            return candidate
    raise _wrong_layout(settings, root, [marker])


def first_existing(settings: BenchmarkSettings, root: Path, names: Sequence[str]) -> Path:
    """Returns the first of several paths below a folder that exists; a UserError if none does."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise _wrong_layout(settings, root, names)


def find_splits(
    settings: BenchmarkSettings,
    folder: Path,
    paths_of: Callable[[str], Sequence[str]],
    read: Callable[[Path], list[Sample]],
    derived: Mapping[str, Callable[[], list[Sample]]] | None = None,
) -> Splits:
    """Returns the splits of a data set whose files exist; they are read on first access.

    Args:
        paths_of: name of a split in the files → the paths at which its file or folder may be.
        read: reads a split from its file or folder.
        derived: split → what reads it, for splits without a file of their own.

    Raises:
        UserError: there is no split, or one that ``dataset.split`` names is not there.
    """
    readers = dict(derived or {})
    places = {split: paths_of(name) for split, name in settings.splits.items()}
    for split, paths in places.items():
        if found := [folder / path for path in paths if (folder / path).exists()]:
            readers[split] = partial(read, found[0])
    wanted = [split for split in split_names(settings.split) if split in places]
    missing = [split for split in wanted if split not in readers]
    if missing or not readers:
        raise _wrong_layout(settings, folder, [places[split][0] for split in missing or places])
    return Splits({split: readers[split] for split in places if split in readers})


def _wrong_layout(settings: BenchmarkSettings, folder: Path, wanted: Iterable[str]) -> UserError:
    """Returns the error that says which paths were expected, any of them, and what is there."""
    wanted = dict.fromkeys(wanted)
    while not folder.is_dir() and folder != folder.parent:
        wanted = [f"{folder.name}/{name}" for name in wanted]
        folder = folder.parent
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
    return UserError(
        f"{folder} holds no {' or '.join(wanted)} (found: {held or 'nothing'}):"
        f" {how_to_get(settings.guide)}"
    )


def how_to_get(guide: str) -> str:
    """Returns where ``docs/data-sets.md`` says how to get a data set: the section ``guide``."""
    line = DATA_GUIDE.read_text(encoding="utf-8").splitlines().index(f"## {guide}") + 1
    return f"docs/data-sets.md, line {line} ({guide}), tells how to get it and where to put it"
