"""Output files: a tool overwrites only its own."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError, shown
from pipeline.files.atomic import (
    cannot_write,
    link_symbolically,
    remove_abandoned,
    write_atomically,
)
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import OF_FILES, Journal

RECORD = ".written.jsonl"
"""The record of a folder that tools write to: which tool wrote what content under which name."""


class OwnFiles:
    """The files of one tool in a folder, which it alone may replace.

    A file is the tool's own if the record says that the tool wrote its present content. The record
    lies in the folder, so both can be moved together.
    """

    def __init__(self, folder: Path, tool: str):
        """Prepares a folder, which may be new, for a tool; a UserError for a file, or below one."""
        above = next(each for each in (folder, *folder.parents) if each.exists())
        if not above.is_dir():
            raise UserError(f"{shown(above)} is not a folder: give another --output")
        self._folder, self._tool = folder, tool
        self._record = record = Journal(folder / RECORD, OF_FILES)
        record.shrink(lambda e: _digest_of(folder / e["id"].split(" ", 2)[-1]) == e["content"])
        self._tidied: set[Path] = set()

    def refuse_foreign(self, paths: Iterable[Path]) -> None:
        """Raises a UserError for a folder, or a file of somebody else or that was changed since."""
        written = self._record.entries
        for path in paths:
            if os.path.lexists(path) and self._entry(path, _digest_of(path)) not in written:
                raise UserError(
                    f"{shown(path)} exists, and tools/{self._tool} did not write it: give another"
                    " --output, or move it away"
                )

    def write(self, path: Path, data: bytes | str, **about: str | bool) -> None:
        """Writes a file below the folder, completely or not at all; records ``about``, too.

        It raises a UserError as :meth:`refuse_foreign`, or if it cannot be written.
        """
        data = data.encode("utf-8") if isinstance(data, str) else data
        self._prepare(path, data, **about)
        write_atomically(path, data)

    def link(self, path: Path, target: Path) -> None:
        """Makes a symbolic link below the folder; raises as :meth:`write`."""
        self._prepare(path, os.fsencode(target))
        link_symbolically(path, target)

    def _prepare(self, path: Path, data: bytes, **about: str | bool) -> None:
        self.refuse_foreign([path])
        if path.parent not in self._tidied:
            self._tidied.add(path.parent)
            remove_abandoned(path.parent)
        # Before the file, so that a run that is killed in between recognises its file.
        digest = fingerprint(data)
        entry = {"id": self._entry(path, digest), "content": digest, **about}
        if self._record.entries.get(entry["id"]) != entry:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(self._folder, error) from error
            self._record.append(entry)

    def _entry(self, path: Path, digest: str) -> str:
        return f"{self._tool} {digest} {path.relative_to(self._folder).as_posix()}"


def computed_files(folder: Path, paths: Iterable[Path], read: Callable[[Path], str]) -> set[Path]:
    """Returns which paths below a folder hold what a tool wrote as ``computed``.

    That is a fingerprint; ``read`` returns the one of a file that may only have been saved again.
    """
    own = folder.resolve()
    home = next((each for each in own.parents if (each / RECORD).is_file()), own)
    entries, below = Journal(home / RECORD, OF_FILES).entries.values(), own.relative_to(home)
    made, by = [e for e in entries if e.get("computed")], ("content", "computed")
    known = {(e["id"].split(" ", 2)[-1], str(e[key])) for e in made for key in by}
    names = {path: (below / path.relative_to(folder)).as_posix() for path in paths if known}
    return {p for p, n in names.items() if any((n, f(p)) in known for f in (_digest_of, read))}


def _digest_of(path: Path) -> str:
    """Returns the fingerprint of what is in a file, or of what a link names; else ""."""
    with suppress(OSError):
        if (is_link := path.is_symlink()) or path.is_file():
            return fingerprint(os.fsencode(path.readlink()) if is_link else path.read_bytes())
    return ""
