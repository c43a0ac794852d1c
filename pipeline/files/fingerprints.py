"""Fingerprints: short names for the contents of files, of configurations, of inputs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import stat
import time
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.atomic import canonical_json
from pipeline.files.journal import Journal

FILE = ".fingerprints.jsonl"
"""The journal of the fingerprints of files, in the output directory."""

_SETTLED = 2_000_000_000  # nanoseconds

_known: dict[str, tuple[int, int, str]] = {}
"""Path → size, time of the last change in nanoseconds, fingerprint."""

_journal: Journal | None = None


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
    known = _known.get(name)
    if known is not None and known[:2] == (size, changed):
        return known[2]
    began = time.time_ns()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    # A file that was written just now may change again within the clock's resolution.
    if began - changed > _SETTLED:
        _known[name] = size, changed, digest
        if _journal is not None:
            with contextlib.suppress(UserError):
                entry = {"id": name, "input": digest, "size": size, "changed": changed}
                _journal.append(entry)
    return digest


def remember_in(folder: Path | None, write: bool = True) -> None:
    """Keeps the fingerprints of files from run to run, in a journal in a folder.

    A journal that is lost, or cannot be written, only means that files are read again.

    Args:
        folder: the output directory, which may not exist yet; None keeps nothing.
        write: whether to add to the journal, or only to read it.
    """
    global _known, _journal
    if _journal is not None:
        _journal.close()
    _known, _journal = {}, None
    if folder is not None:
        journal = Journal(folder / FILE)
        _known = {
            entry["id"]: (entry["size"], entry["changed"], entry["input"])
            for entry in journal.entries.values()
        }
        journal.forget()
        _journal = journal if write else None
