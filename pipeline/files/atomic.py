"""Files that appear whole or not at all, and JSON that may be torn or missing."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

from pipeline.errors import UserError
from pipeline.files.fingerprints import canonical_json

MENDABLE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EFBIG,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.EIO,
        errno.ESTALE,
    }
)
"""Errors of the system that are no fault of ours: a full disk, a quota, missing permissions, …"""

TEMPORARY = ".partial-"
"""How the names of temporary files begin."""

_ABANDONED = 3600.0  # seconds


def temporary_path(folder: Path) -> Path:
    """Returns where a file is written that is not whole yet; its name tells by whom."""
    return folder / f"{TEMPORARY}{os.getpid()}-{platform.node()}-{secrets.token_hex(4)}"


def is_stale(path: Path) -> bool:
    """Tells whether whoever wrote a temporary file has ended, as far as that can be told.

    Of a process of another machine it is assumed after an hour.
    """
    found = re.fullmatch(rf"{re.escape(TEMPORARY)}(\d+)-(.*)-[0-9a-f]{{8}}", path.name)
    if found and found[2] == platform.node():
        return not psutil.pid_exists(int(found[1]))
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write, which appears under its name whole, when the block ends well.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path.parent)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a file so that it appears whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as file:
        file.write(data)


def cannot_write(path: Path | str | None, error: OSError) -> UserError:
    """Returns what a failed write is answered with."""
    return UserError(
        f"cannot write {path or 'a file'}: {error.strerror}; what was finished is kept, run the"
        " same command again when this is mended"
    )


def read_json_lines(path: Path) -> list[dict]:
    """Reads JSON lines; a line that a kill or a crash tore is passed over."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and "id" in value:
            lines.append(value)
    return lines


def to_json_lines(values: Iterable[Mapping]) -> str:
    """Returns one line of JSON a value."""
    return "".join(canonical_json(value) + "\n" for value in values)


def read_json(path: Path) -> dict | None:
    """Reads a JSON file; none where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
