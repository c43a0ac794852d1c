"""Which files Python opens in a block."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_opened: set[Path] | None = None


def _note(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(given[0], str | bytes | os.PathLike):
        _opened.add(Path.cwd() / os.fsdecode(given[0]))


@contextmanager
def files_opened() -> Iterator[set[Path]]:
    """Yields the paths of all files that Python opens in the block."""
    global _opened
    if not hasattr(sys, "_notes_what_is_opened"):
        sys._notes_what_is_opened = True
        sys.addaudithook(_note)
    _opened = set()
    try:
        yield _opened
    finally:
        _opened = None
