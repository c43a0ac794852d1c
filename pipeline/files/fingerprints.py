"""Short names for contents: of files, of configurations, of inputs."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that name the parts: bytes, or anything JSON can hold."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """Returns the fingerprint of a file's bytes; an unchanged file is read once.

    A file counts as unchanged while its size and the time of its last change stay, as in git; see
    :func:`remember_in`.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file", str(path))
    found = _memory.get(path)
    if found is not None and found[:2] == (status.st_size, status.st_mtime_ns):
        return found[2]
    began = time.time_ns()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    # One that was written just now may be written again within the clock's resolution.
    if began - status.st_mtime_ns > _SETTLED:
        _memory[path] = (status.st_size, status.st_mtime_ns, digest)
    return digest


_SETTLED = 2_000_000_000  # nanoseconds

Memory = MutableMapping[Path, tuple[int, int, str]]
"""File → size, time of the last change in nanoseconds, fingerprint."""

_memory: Memory = {}


def remember_in(memory: Memory) -> None:
    """Has the fingerprints of files kept elsewhere than in this process."""
    global _memory
    _memory = memory


def join_keys(image: str, *others: str) -> str:
    """Returns the key of an input that is an image and what was made from it before."""
    return "-".join([image, *others])


def canonical_json(value: Any) -> str:
    """Returns JSON in which equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
