"""Finds a data set's folders and files; errors name what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pipeline.datasets.settings import BenchmarkSettings, split_names
from pipeline.errors import UserError, shown
from pipeline.files.text import given_path, read_text

_README = Path(__file__).resolve().parents[2] / "data" / "README.md"
_MAX_NAMED = 8


def existing_folder(folder: str, key: str, guide: str = "") -> Path:
    """Returns a folder of the configuration as an absolute path.

    Args:
        folder: the value of the setting.
        key: its name, such as "root".
        guide: the heading in ``data/README.md`` that says how to get it, if there is one.

    Raises:
        UserError: it is not a folder.
    """
    path = given_path(folder, f"dataset.{key}").absolute()
    try:
        exists = path.is_dir()
    except OSError:  # not a valid file name
        exists = False
    if not exists:
        more = f"; {_pointer(guide)}" if guide else ""
        name = f"dataset.{key}={shown(folder)}"
        raise UserError(f"{name} is not a folder: give an existing one{more}")
    return path


def find_root(root: Path, below: Iterable[str], marker: str, guide: str) -> Path:
    """Returns the first folder that holds ``marker``: the root, or one of some folders below it.

    Raises:
        UserError: no folder holds it.
    """
    for candidate in (root, *(root / name for name in below)):
        if (candidate / marker).exists():
            return candidate
    raise wrong_layout(root, [marker], guide)


def first_existing(root: Path, names: Iterable[str], guide: str) -> Path:
    """Returns the first of several paths below a folder that exists.

    Raises:
        UserError: none exists.
    """
    names = list(names)
    for name in names:
        if (root / name).exists():
            return root / name
    raise wrong_layout(root, names, guide)


def wrong_layout(folder: Path, wanted: Iterable[str], guide: str) -> UserError:
    """Returns the error for a layout that differs from the expected one.

    Args:
        folder: the folder that was searched; if it does not exist, its parent is described.
        wanted: the paths that were expected, any of them.
        guide: the heading in ``data/README.md`` that says how to get them.
    """
    wanted = list(dict.fromkeys(wanted))
    while not folder.is_dir() and folder != folder.parent:
        wanted = [f"{folder.name}/{name}" for name in wanted]
        folder = folder.parent
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
    return UserError(
        f"{folder} holds no {' or '.join(wanted)} (found: {held or 'nothing'}): {_pointer(guide)}"
    )


def require_splits(
    settings: BenchmarkSettings,
    available: Collection[str],
    folder: Path,
    places: Mapping[str, str],
) -> None:
    """Checks that a data set has a split, and every split that ``dataset.split`` names.

    Args:
        settings: of the data set.
        available: the splits whose files exist.
        folder: the folder that was searched.
        places: split → the path below it that was expected.

    Raises:
        UserError: gives what was expected and what is there.
    """
    wanted = [name for name in split_names(settings.split) if name in places]
    missing = [places[name] for name in wanted if name not in available]
    if missing or not available:
        raise wrong_layout(folder, missing or places.values(), settings.guide)


def _pointer(guide: str) -> str:
    line = guide_line(guide)
    return f"data/README.md, line {line} ({guide}), says how to get and lay it out"


def guide_line(guide: str) -> int:
    """Returns the number of the line in ``data/README.md`` at which a section begins."""
    lines = _README.read_text(encoding="utf-8").splitlines()
    return lines.index(f"## {guide}") + 1


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file, stripped and without empty ones.

    Raises:
        UserError: no such file, or it is not text.
    """
    text = read_text(path, str(path), "replace it")
    return [line.strip() for line in text.splitlines() if line.strip()]
