"""Files that appear whole or not at all, and JSON that may be torn or missing."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.fingerprints import canonical_json

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


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a file so that it appears whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


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
