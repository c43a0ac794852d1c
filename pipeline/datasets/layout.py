"""Finding a data set's folders and files, and saying what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import UserError, shown
from pipeline.files.text import given_path, read_text

_GUIDE = Path(__file__).resolve().parents[2] / "data" / "README.md"
_MOST_NAMED = 8


def existing_root(settings: Mapping, key: str = "root") -> Path:
    """Returns ``dataset.root``, or another folder of the configuration, as an absolute path.

    Raises:
        UserError: it is not given or is no folder.
    """
    if settings.get(key) is None:
        raise UserError(f"dataset.{key} is missing: give the folder, dataset.{key}=/path/to/folder")
    root = given_path(settings[key], f"dataset.{key}").absolute()
    try:
        there = root.is_dir()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        section = settings.get("guide")
        more = f"; {_guide(section)}" if section else ""
        name = f"dataset.{key}={shown(settings[key])}"
        raise UserError(f"{name} is no folder: give an existing one{more}")
    return root


def find_root(root: Path, below: Iterable[str], marker: str, section: str) -> Path:
    """Returns the folder that holds ``marker``: the root, or one of some folders below it.

    Raises:
        UserError: none of them does.
    """
    for candidate in (root, *(root / name for name in below)):
        if (candidate / marker).exists():
            return candidate
    raise wrong_layout(root, [marker], section)


def first_existing(root: Path, names: Iterable[str], section: str) -> Path:
    """Returns the first of several places below a folder that exists.

    Raises:
        UserError: none of them does.
    """
    names = list(names)
    for name in names:
        if (root / name).exists():
            return root / name
    raise wrong_layout(root, names, section)


def wrong_layout(folder: Path, wanted: Iterable[str], section: str) -> UserError:
    """Returns the error for a layout that is not as expected.

    Args:
        folder: where it was looked; where it does not exist, the one above it is described.
        wanted: what was looked for, any of them.
        section: the heading in ``data/README.md`` that says how to get it.
    """
    wanted = list(dict.fromkeys(wanted))
    while not folder.is_dir() and folder != folder.parent:
        wanted = [f"{folder.name}/{name}" for name in wanted]
        folder = folder.parent
    there = sorted(p.name for p in folder.iterdir())
    found = ", ".join(there[:_MOST_NAMED]) + (", …" if len(there) > _MOST_NAMED else "")
    return UserError(
        f"{folder} holds no {' or '.join(wanted)} (found: {found or 'nothing'}): {_guide(section)}"
    )


def require_splits(
    settings: Mapping, found: Iterable[str], folder: Path, places: Mapping[str, str]
) -> None:
    """Checks that there is a split, and every one that a run asks for by name.

    Args:
        settings: ``split`` and ``guide``.
        found: the splits that are there.
        folder: where they were looked for.
        places: split name → what was looked for.

    Raises:
        UserError: says what was looked for and what was found.
    """
    split = settings.get("split") or ()
    missing = [name for name in ([split] if isinstance(split, str) else split) if name in places]
    missing = [places[name] for name in missing if name not in found]
    if missing or not found:
        raise wrong_layout(folder, missing or places.values(), settings["guide"])


def _guide(section: str) -> str:
    line = guide_line(section)
    return f"data/README.md, line {line} ({section}), says how to get and lay it out"


def guide_line(section: str) -> int:
    """Returns the number of the line in ``data/README.md`` at which a section begins."""
    lines = _GUIDE.read_text(encoding="utf-8").splitlines()
    return lines.index(f"## {section}") + 1


def read_lines(path: Path) -> list[str]:
    """Returns a list's lines without those that are empty.

    Raises:
        UserError: the file is not text.
    """
    text = read_text(path, str(path), "replace it")
    return [line.strip() for line in text.splitlines() if line.strip()]
