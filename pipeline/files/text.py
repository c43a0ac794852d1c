"""Reads text files that users write."""

import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, shown

_MAX_BYTES = 1 << 28  # of a text file; COCO's longest list has 15 million

_SPECIAL = re.compile(r"[;\\]")  # in a name of a cell
_NAME = re.compile(r"(?:\\.|[^;\\])+", re.DOTALL)
_NAMES = re.compile(r"(?:\\.|[^\\])*", re.DOTALL)


def read_text(path: Path, name: str, wanted: str, max_bytes: int = _MAX_BYTES) -> str:
    """Reads a text file in UTF-8, with or without a byte-order mark; line ends stay as they are.

    Args:
        name: its name in errors, such as ``dataset.labels=list.txt``.
        wanted: the remedy in errors, such as "give a list with an image a line".
        max_bytes: larger files are refused.

    Raises:
        UserError: the file is missing, too large, or not text.
    """
    try:
        if not path.is_file():  # reading a pipe would block
            raise UserError(f"{name} is not a file: {wanted}")
        if path.stat().st_size > max_bytes:
            raise UserError(f"{name} holds more than {max_bytes} bytes: {wanted}")
        text = path.read_bytes().decode("utf-8-sig")  # names of photographs may have any line end
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: save it as such") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): {wanted}") from error
    if "\0" in text:
        raise UserError(f"{name} holds NUL bytes and is not UTF-8 text: save it as such")
    return text


def read_rows(path: Path, *named: str, **dialect: bool) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each row of CSV that is not empty; see :func:`read_text`.

    ``dialect`` is for :func:`csv.reader`. Raises a UserError if the file is not CSV, too.
    """
    rows = csv.reader(io.StringIO(read_text(path, *named), newline=""), **dialect)
    try:
        yield from ((rows.line_num, row) for row in rows if row)
    except csv.Error as error:  # an unclosed quote makes one cell of the rest of the file
        raise UserError(f"{path}, line {rows.line_num} is not CSV ({error}): correct it") from error


def load_json(path: Path, max_bytes: int = 1 << 26) -> Any:  # noqa: ANN401
    """Returns the value in a JSON file, which may take thirty times its size in memory.

    Raises an OSError if it cannot be read or is larger than ``max_bytes``; a ValueError or
    RecursionError if it is not JSON, or an object has a key twice.
    """
    size = path.stat().st_size
    if not path.is_file():  # reading a pipe would block
        raise OSError(errno.EINVAL, "it is not a file")
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {max_bytes:,} are read")
    return json.loads(path.read_bytes(), object_pairs_hook=_object_of)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {shown(max(keys, key=keys.count))} twice")
    return found


def given_path(given: str | Path, name: str) -> Path:
    """Returns a path from the configuration, with ``~`` replaced by the home folder.

    Raises:
        UserError: the path names the home folder of an unknown user; ``name`` is its key.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}={shown(given)} begins with the home folder of an unknown user: give the whole"
            " path"
        ) from error


def last_names(given: str | Path, name: str) -> str:
    """Returns the last two names of a path, such as ``SAM/val``, by which keys hold a source.

    So the files of two methods can be compared, and the same ones have one key on several machines.
    Arguments and errors are those of :func:`given_path`.
    """
    return Path(*Path(full_name(given_path(given, name))).parts[-2:]).as_posix()


def full_name(path: Path) -> str:
    """Returns the name of a path for keys, which is one for ``a`` and for ``../b/a``."""
    return os.path.normpath(path.absolute())


def join_cell(names: Iterable[str]) -> str:
    """Returns names as one cell of a table: separated by ``;``, which a ``\\`` escapes in them."""
    return ";".join(_SPECIAL.sub(r"\\\g<0>", name) for name in names)


def split_cell(cell: str) -> list[str]:
    """Returns the names that :func:`join_cell` joined; a ValueError if a single ``\\`` is last."""
    if not _NAMES.fullmatch(cell):
        raise ValueError(cell)
    names = (re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in _NAME.findall(cell))
    return [name for name in names if name.strip()]


def given_folder(given: str, key: str, holds: str) -> Path:
    """Returns the absolute path of a folder; a UserError says which file names it should hold."""
    path = given_path(given, key).absolute()
    with suppress(OSError):  # not a valid file name
        if path.is_dir():
            return path
    raise UserError(f"{key}={shown(given)} is not a folder: give one that holds {holds}")


def in_words(seconds: float | None) -> str:
    """Returns a duration in words, or a dash if it is not known."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
