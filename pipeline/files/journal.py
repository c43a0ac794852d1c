"""What was done with each image: lines of JSON that survive kills, torn writes and damage."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from pipeline.files.atomic import cannot_write, read_json_lines, write_atomically
from pipeline.files.fingerprints import canonical_json

SUM = "sum"
"""The key of a line that holds the checksum of all others."""

_EARLIER_KEYS = frozenset({"id", "input", "files", "tags", "scores"})
"""What lines hold that were written before there were checksums."""

_PARTS = ".entries-*.jsonl"


class Journal:
    """The lines of a stage's folder, the last one of each image.

    Whoever holds the folder's lock writes ``entries.jsonl``. Workers, in other processes and on
    other machines, write beside it, each into a file of its own; what such a file holds when a run
    was killed is taken over by the next one.
    """

    def __init__(self, path: Path):
        """Prepares a journal, which is read when it is first asked for.

        Args:
            path: ``entries.jsonl``; it need not exist.
        """
        self.path = path
        self._file: int | None = None

    @cached_property
    def entries(self) -> dict[str, dict]:
        """Image id → its line, without the checksum; torn and damaged lines are passed over."""
        lines = (line for path in (self.path, *self._parts()) for line in read_lines(path))
        return {line["id"]: line for line in lines}

    def forget(self) -> None:
        """Has the lines read anew when they are next asked for."""
        self.__dict__.pop("entries", None)

    def append(self, entry: dict) -> None:
        """Adds an image's line.

        Raises:
            UserError: it cannot be written; the line may be torn then, and counts for nothing.
        """
        self.write(entry)
        self.entries[entry["id"]] = entry

    def write(self, entry: dict) -> None:
        """Adds a line to the file alone.

        Raises:
            UserError: it cannot be written.
        """
        line = _signed(entry).encode()
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._file = os.open(self.path, flags, 0o644)
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def compact(self) -> None:
        """Writes one line an image, sorted, and takes in what workers wrote."""
        self.close()
        text = to_text(self.entries[key] for key in sorted(self.entries))
        old = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        if old != text:
            write_atomically(self.path, text)
        for part in self._parts():
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(_PARTS))


def part_path(folder: Path) -> Path:
    """Returns where this process writes its lines of a folder that another one has locked."""
    return folder / _PARTS.replace("*", f"{platform.node()}-{os.getpid()}")


def read_lines(path: Path) -> list[dict]:
    """Reads the whole lines of a journal; one that a kill tore or that was changed is passed over.

    A line without a checksum is whole, too: earlier versions wrote none.
    """
    lines = []
    for line in read_json_lines(path):
        wanted = line.pop(SUM, None)
        is_whole = wanted == _checksum(line) if wanted else line.keys() <= _EARLIER_KEYS
        if is_whole and isinstance(line.get("input"), str):
            lines.append(line)
    return lines


def to_text(lines: Iterable[Mapping]) -> str:
    """Returns lines as they stand in a journal."""
    return "".join(map(_signed, lines))


def _signed(line: Mapping) -> str:
    return canonical_json({**line, SUM: _checksum(line)}) + "\n"


def _checksum(line: Mapping) -> str:
    return f"{zlib.crc32(canonical_json(line).encode()):08x}"
