"""The fingerprints of photographs, kept from run to run, so that none is read only to be known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files.journal import Journal

FILE = ".fingerprints.jsonl"


class FileMemory(MutableMapping[Path, tuple[int, int, str]]):
    """File → size, time of the last change in nanoseconds, fingerprint; kept in a journal.

    It is a convenience: what cannot be written, or is lost, costs that files are read again.
    """

    def __init__(self, folder: Path):
        """Reads what is known.

        Args:
            folder: the output directory; it need not exist.
        """
        self._journal = Journal(folder / FILE)
        self._files = {
            entry["id"]: (entry["size"], entry["changed"], entry["input"])
            for entry in self._journal.entries.values()
            if {"size", "changed"} <= entry.keys()
        }
        self._journal.forget()

    def __getitem__(self, path: Path) -> tuple[int, int, str]:
        return self._files[str(path)]

    def __setitem__(self, path: Path, known: tuple[int, int, str]) -> None:
        self._files[str(path)] = known
        size, changed, digest = known
        if self._journal.path.parent.is_dir():
            with contextlib.suppress(UserError):
                self._journal.write(
                    {"id": str(path), "input": digest, "size": size, "changed": changed}
                )

    def __delitem__(self, path: Path) -> None:
        del self._files[str(path)]

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self._files)

    def __len__(self) -> int:
        return len(self._files)
