"""Fingerprints: short names for the contents of files, of configurations, of inputs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import stat
import time
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.atomic import canonical_json
from pipeline.files.journal import Journal

FILE = ".fingerprints.jsonl"
"""The journal of the fingerprints of files, in the output directory."""

_SETTLED = 2_000_000_000  # nanoseconds

_memory: ContextVar[tuple[Journal, bool] | None] = ContextVar("fingerprints", default=None)
"""The journal of the run, and whether to add to it."""


def fingerprint(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that name the parts: bytes, or anything JSON can hold."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def join_keys(image: str, *others: str) -> str:
    """Returns the key of a result that is made from an image and from earlier results."""
    return "-".join([image, *others])


def fingerprint_file(path: Path) -> str:
    """Returns the fingerprint of a file's bytes; an unchanged file is read once.

    Like git, this takes a file as unchanged while its size and its time of last change stay the
    same. :func:`remember_in` keeps what is known from run to run.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    name, size, changed = str(path), status.st_size, status.st_mtime_ns
    # A file that was written just now may change again within the clock's resolution.
    is_settled = time.time_ns() - changed > _SETTLED
    if (memory := _memory.get()) is None:
        return _read_once(path, size, changed) if is_settled else _read(path)
    journal, writes = memory
    known = journal.entries.get(name)
    if known is not None and (known["size"], known["changed"]) == (size, changed):
        return known["input"]
    entry = {"id": name, "input": _read(path), "size": size, "changed": changed}
    if is_settled:
        journal.entries[name] = entry
        if writes:
            with contextlib.suppress(UserError):
                journal.append(entry)
    return entry["input"]


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


@lru_cache(maxsize=64)  # workers keep no journal, and ask for the same weights several times
def _read_once(path: Path, size: int, changed: int) -> str:
    return _read(path)


def remember_in(folder: Path | None, write: bool = True) -> None:
    """Keeps the fingerprints of files from run to run, in a journal in the output directory.

    A journal that is lost, or cannot be written, only means that files are read again. Without
    ``write`` it is only read, and without a folder nothing is kept.
    """
    if (memory := _memory.get()) is not None:
        memory[0].close()
    _memory.set(None if folder is None else (Journal(folder / FILE), write))
