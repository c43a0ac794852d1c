"""Fingerprints: short names for the contents of files, of configurations, of inputs."""

import contextlib
import errno
import hashlib
import os
import time
from contextvars import ContextVar
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.atomic import canonical_json
from pipeline.files.journal import OF_FILES, Journal

FILE = ".fingerprints.jsonl"
"""The journal of the fingerprints of files, in the output directory."""

_PIECE = 1 << 18  # bytes
RESOLUTION = 2_000_000_000
"""Nanoseconds between two changes that the coarsest file systems tell apart."""

_memory: ContextVar[tuple[Journal, bool] | None] = ContextVar("fingerprints", default=None)
"""The journal of the run, and whether to add to it."""


def fingerprint(*parts: object) -> str:
    """Returns 16 hexadecimal digits that name the parts: bytes, or anything JSON can hold."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """Returns the fingerprint of a file's bytes, read every time, or raises an OSError."""
    if not path.is_file() and path.exists():  # reading a pipe would block
        raise OSError(errno.EIO, "it is not a file", str(path))
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb", buffering=0) as file:  # hashlib.file_digest takes twice as long
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint_cached(path: Path) -> str:
    """Returns :func:`fingerprint_file` of a file; an unchanged file is read once.

    Like git, this takes a file as unchanged while its size and the times of its last changes stay
    the same, and does not trust what was read about when the file was written, since it may have
    changed again within the resolution of the file system's clock. :func:`remember_in` keeps what
    is known from run to run. Raises an OSError if the file cannot be read.
    """
    if (memory := _memory.get()) is None:
        return fingerprint_file(path)
    journal, writes = memory
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    known = journal.entries.get(str(path), {})
    if known.get("state") == state and known["read"] - status.st_mtime_ns > RESOLUTION:
        return known["content"]
    read = time.time_ns()
    if writes:
        with contextlib.suppress(OSError):  # a file server has a clock of its own
            journal.path.touch()
            read = journal.path.stat().st_mtime_ns
    entry = {"id": str(path), "content": fingerprint_file(path), "state": state, "read": read}
    journal.entries[str(path)] = entry
    if writes:
        with contextlib.suppress(UserError):
            journal.append(entry)
    return entry["content"]


def remember_in(folder: Path | None, write: bool = True) -> None:
    """Keeps what :func:`fingerprint_cached` reads from run to run, in a journal in a folder.

    A journal that is lost, or another user's, only means that files are read again. Files that are
    gone are forgotten. Without ``write`` it is only read, and without a folder nothing is kept.
    """
    if (memory := _memory.get()) is not None:
        memory[0].close()
    if folder is None:
        _memory.set(None)
        return
    journal = Journal(folder / FILE, OF_FILES)
    with contextlib.suppress(OSError, UserError):
        if write:
            journal.shrink(lambda entry: os.path.lexists(entry["id"]))
        _ = journal.entries
    journal.__dict__.setdefault("entries", {})  # else no file could be read
    _memory.set((journal, write))
