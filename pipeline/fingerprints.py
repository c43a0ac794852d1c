"""Short names for contents: of files, of configurations, of inputs."""

from __future__ import annotations

import hashlib
import json
from functools import cache
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
    """Returns the fingerprint of a file's bytes; an unchanged file is read once in a process.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _fingerprint_file(path, status.st_size, status.st_mtime_ns)


@cache
def _fingerprint_file(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def join_keys(image: str, *others: str) -> str:
    """Returns the key of an input that is an image and what was made from it before."""
    return "-".join([image, *others])


def canonical_json(value: Any) -> str:
    """Returns JSON in which equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
