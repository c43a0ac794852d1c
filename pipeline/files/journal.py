"""Journals: an entry for each image, in JSON lines that survive kills and damage.

Each line ends with a checksum of itself, ``"sum"``. Torn and damaged lines are skipped and counted.
"""

import gc
import os
import platform
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from sys import intern

from pipeline.files.atomic import (
    cannot_write,
    canonical_json,
    open_own,
    parse_objects,
    write_atomically,
)

_SUM = b',"sum":"'
_END = b'%08x"}'
OF_FILES = {"id": str, "content": str, "state": [int], "read": int}, ("id", "content")
"""The types of the entries of files, by their fingerprints, and which of them are required."""

OF_IMAGES = (
    {
        **dict.fromkeys(("id", "own_key"), str),
        **dict.fromkeys(("inputs", "files", "scores"), {str: str}),
        **dict.fromkeys(("tags", "found"), [int]),
        "machine": [str],
    },
    ("id", "inputs"),
)
"""Those of the entries of images."""

Kind = tuple[dict, Collection[str]]

_PARTS = ".entries-*.jsonl"
_SMALL = 100_000  # bytes of a journal that needs no compaction


@contextmanager
def without_collection() -> Iterator[None]:
    """Looks for no garbage meanwhile: for what creates many objects, of which none is garbage."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()


class Journal:
    """The lines of a stage's folder, the last one of each image.

    The process that holds the folder's lock writes ``entries.jsonl``. Workers, in other processes
    and on other machines, write files of their own beside it. If a run is killed, the next one
    takes their lines over. ``damaged`` counts the lines that were skipped as the entries were read.
    """

    def __init__(self, path: Path, kind: Kind = OF_IMAGES):
        """Prepares a journal, which need not exist; it is read on first use."""
        self.path, self._kind = path, kind
        self._old = path.with_suffix(".old")
        self._file: int | None = None
        self.damaged = 0

    @cached_property
    def entries(self) -> dict[str, dict]:
        """Image id → the image's last line, without the checksum."""
        paths = (self._old, self.path, *sorted(self.path.parent.glob(_PARTS)))
        with without_collection():  # which takes a third of the time
            found = [read_entries(path, self._kind) for path in paths]
        self.damaged = sum(damaged for _, damaged in found)
        return {line["id"]: line for lines, _ in found for line in lines}

    def append(self, entry: dict) -> None:
        """Adds the line of ``id``.

        Raises:
            UserError: the line cannot be written; it may be torn then, and is skipped.
        """
        line = encode_line(entry)
        try:
            if self._file is None:
                self._file = open_own(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if "entries" in self.__dict__:
            self.entries[entry["id"]] = entry

    def compact(self) -> None:
        """Rewrites the journal with one line per image, sorted, and takes in those of workers."""
        self.close()
        new = b"".join(encode_line(self.entries[key]) for key in sorted(self.entries))
        if new != (self.path.read_bytes() if self.path.is_file() else b""):
            write_atomically(self.path, new)
        for part in self.path.parent.glob(_PARTS):
            part.unlink(missing_ok=True)

    def shrink(self, keep: Callable[[dict], bool]) -> None:
        """Drops superseded lines, and entries not to ``keep``, if the journal has doubled since.

        Until the next time they stay in another file, to which writers that have it open may add.
        """
        before = self.entries.pop("", {}).get("read", _SMALL)  # bytes, in an entry of no file
        if self.path.is_file() and self.path.stat().st_size > 2 * before:
            lines = b"".join(encode_line(each) for each in self.entries.values() if keep(each))
            size = encode_line({"id": "", "content": "", "read": max(_SMALL, len(lines))})
            self._old.unlink(missing_ok=True)
            with suppress(OSError):  # a file system without links
                os.link(self.path, self._old)
            write_atomically(self.path, size + lines)

    def close(self) -> None:
        """Closes the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def part_path(folder: Path) -> Path:
    """Returns the journal of this process in a folder that another process has locked."""
    return folder / _PARTS.replace("*", f"{platform.node()}-{os.getpid()}")


def encode_line(entry: Mapping) -> bytes:
    """Returns an entry as a line of a journal, with its checksum."""
    text = canonical_json(entry).encode()
    return text[:-1] + _SUM + _END % zlib.crc32(text) + b"\n"


def read_entries(path: Path, kind: Kind = OF_IMAGES) -> tuple[list[dict], int]:
    """Returns the intact lines of a journal, without checksums, and the number of the others."""
    if not path.is_file():
        return [], 0
    texts = []
    written = [line for line in path.read_bytes().split(b"\n") if line]
    for line in written:
        text, _, end = line.rpartition(_SUM)
        text += b"}"
        if end == _END % zlib.crc32(text):
            texts.append(text)
    intact = [line for line in parse_objects(texts, *kind) if line is not None]
    machines: dict[tuple[str, ...], list[str]] = {}
    for line in intact:  # most of them share these
        if "own_key" in line:
            line["own_key"] = intern(line["own_key"])
        if "machine" in line:
            line["machine"] = machines.setdefault((*line["machine"],), line["machine"])
    return intact, len(written) - len(intact)
