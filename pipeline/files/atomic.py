"""Atomic writes of files, and JSON files that may be damaged or missing.

Whatever writes raises a UserError if the disk is full or the folder cannot be written to.
"""

import errno
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from pipeline.errors import UserError, shown

_MENDABLE = "ENOSPC EDQUOT EROFS EACCES EPERM EFBIG ENAMETOOLONG ELOOP EMFILE EIO ESTALE"
MENDABLE = frozenset(getattr(errno, name) for name in _MENDABLE.split())
"""System errors that the user can mend: a full disk, a quota, missing permissions, …"""

TEMPORARY = ".partial-"
"""The prefix of the names of temporary files."""

_ABANDONED = 3600.0  # seconds
_MAX_DEPTH = 50  # levels of nesting in JSON that is read
_ANY: dict = {}

canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Returns JSON in which equal values have equal text."""


def open_own(path: Path | str, flags: int) -> int:
    """Opens a file of ours to write in place; a link, which may lead anywhere, is refused."""
    if Path(path).is_symlink():
        raise UserError(f"{path} is a link, which nothing is written through: remove it")
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait for a pipe
    return os.open(path, flags, 0o666)  # less the process's umask


def is_stale(path: Path) -> bool:
    """Tells whether the process that wrote a temporary file has ended.

    Processes of other machines cannot be asked: their files are stale after an hour.
    """
    writer = re.fullmatch(rf"{re.escape(TEMPORARY)}(\d+)-(.*)-[0-9a-f]{{8}}", path.name)
    if writer and writer[2] == platform.node():
        return not psutil.pid_exists(int(writer[1]))
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED
    except OSError:
        return False


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files of killed processes from a folder that may hold files of others."""
    for path in folder.glob(f"{TEMPORARY}[0-9]*-*-{'[0-9a-f]' * 8}"):
        if is_stale(path):
            with suppress(OSError):  # it is another user's
                path.unlink()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yields a path beside another; what the block puts there appears under the other's name.

    After an error in the block, it is removed. Its name identifies the process.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{platform.node()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # still there if both are links to one file
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name, complete, when the block ends without an error."""
    with appearing(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a file so that it appears completely or not at all."""
    with replacing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a file appear under another name, completely or not at all.

    It is a hard link where the file system has these. Files are replaced and never changed in
    place, so neither name notices when the other is removed or written again.
    """
    with appearing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links, or another device
            shutil.copyfile(source, temporary)


def link_symbolically(path: Path, target: Path | str) -> None:
    """Makes a symbolic link appear; a file system that does not support it is a UserError."""
    with appearing(path) as temporary:
        try:
            temporary.symlink_to(target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            raise UserError(
                f"cannot write {path}: the file system of this folder does not support symbolic"
                " links, as FAT and exFAT do not: choose a folder on another disk"
            ) from error


def needs_shared_memory(error: OSError) -> bool:
    """Tells whether an error is that of a semaphore, which Linux keeps in /dev/shm."""
    numbers = (errno.EACCES, errno.ENOENT, errno.ENOSYS, errno.EROFS)
    is_semaphore = error.filename is None and error.errno in numbers and sys.platform == "linux"
    return is_semaphore and not os.access("/dev/shm", os.W_OK)


def cannot_write(path: Path | str | None, error: OSError, what: str = "write") -> UserError:
    """Returns the error for a failed write, or for ``what`` else failed, with the remedy."""
    if needs_shared_memory(error):
        return UserError(
            "processes cannot share memory, since /dev/shm cannot be written: mount it writable"
            " (docker: --ipc host), or give runtime.workers=1 segmenter.workers=0 executor=local"
        )
    return UserError(
        f"cannot {what} {shown(path or 'a file')}: {error.strerror}; fix this and run the same"
        " command again, finished results are kept"
    )


class Complete(dict):
    """A shape for :func:`fits` whose keys are all required."""


def fits(value: object, shape: object, required: Collection[str] = ()) -> bool:
    """Tells whether a value has a shape: a type, [the shape of each], or the shape of each key.

    The key ``str`` stands for all; keys that are not ``required`` may be missing, except those of
    :class:`Complete`. Integers have at most 64 bits.
    """
    if type(value) is shape and shape is not int:  # most values of journals, which are long
        return True
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, dict):
        if isinstance(shape, Complete):
            required = shape
        if not isinstance(value, dict) or not {*required} <= value.keys():
            return False
        return all(fits(each, shape.get(str, shape.get(k, object))) for k, each in value.items())
    if isinstance(value, int) and abs(value) >= 2**63:
        return False
    return isinstance(value, shape) and (shape in (object, bool) or not isinstance(value, bool))


def parse_object(
    text: str | bytes, shape: dict = _ANY, required: Collection[str] = ()
) -> dict | None:
    """Returns the object in a JSON text; None if it is damaged, or does not fit a shape.

    See :func:`fits`. Objects that are nested too deeply for other code count as damaged.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if not _is_too_deep(value) and fits(value, shape, required) else None


def parse_objects(
    texts: Sequence[bytes], shape: dict, required: Collection[str]
) -> list[dict | None]:
    """Returns the object in each of several texts, see :func:`parse_object`.

    They are read as one array, in which Python holds each key once.
    """
    try:
        values = json.loads(b"[%b]" % b",".join(texts))
    except (ValueError, RecursionError):
        values = []
    if len(values) != len(texts) or _is_too_deep(values):  # one of them is damaged
        return [parse_object(text, shape, required) for text in texts]
    return [value if fits(value, shape, required) else None for value in values]


def _is_too_deep(value: object) -> bool:
    level, depth = [[value]], 0
    while level and depth < _MAX_DEPTH:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
    return bool(level)


def read_json_lines(path: Path) -> list[dict]:
    """Reads a file of JSON lines, each an object with an id; other lines are skipped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    values = (parse_object(line, {"id": str}, ["id"]) for line in lines)
    return [value for value in values if value is not None]


def write_json_lines(path: Path, values: Sequence[Mapping]) -> None:
    """Writes a line of JSON for each value; without values, removes the file."""
    if values:
        write_atomically(path, "".join(canonical_json(value) + "\n" for value in values))
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path, shape: dict = _ANY) -> dict | None:
    """Reads an object from a JSON file; None if it is missing, see also :func:`parse_object`."""
    try:
        return parse_object(path.read_bytes(), shape) if path.is_file() else None
    except OSError:
        return None
