"""Unpacks zip and tar archives that are not trusted.

Of a member, only its name and its bytes are used: no owner, mode, date, link or device.
"""

import errno
import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.errors import UserError, shown
from pipeline.files.atomic import TEMPORARY, cannot_write
from pipeline.files.download import STATE, size_text

_MAX_FACTOR = 10  # COCO's annotations become three times as large, photographs hardly larger
_MAX_PADDING = 1 << 20  # bytes; an archive of a few small files is mostly padding
_PIECE = 1 << 20  # bytes that are read at once


class UnusableArchive(UserError):
    """The archive is damaged, or holds what it must not."""


_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
_DAMAGED += (RuntimeError, ValueError, ArithmeticError, LookupError)
"""Errors of the standard library for damaged archives and encrypted members."""


def unpack(
    archive: Path, target: Path, inside: str = "", show: Callable[[int], None] = lambda _: None
) -> int:
    """Unpacks an archive into a folder, all of it or nothing, and returns the number of files.

    Files of the same names are replaced.

    Args:
        archive: a zip file, or a tar file that may be compressed with gzip.
        inside: the folder in the archive whose contents are unpacked; the rest is ignored.
        show: is called with the number of bytes of the archive that were read.

    Raises:
        UnusableArchive: it is damaged, holds a link, a device, a sparse file, a path that leads
            outside, more than ten times its own size, or nothing below ``inside``.
        UserError: the files cannot be written, or the disk is too small.
    """
    staging = archive.with_name(f"{TEMPORARY}{archive.name}")
    free = shutil.disk_usage(archive.parent).free
    limit = min(free, _MAX_FACTOR * archive.stat().st_size + _MAX_PADDING)

    def check(size: int) -> None:
        if size > limit:
            raise (UserError if limit == free else UnusableArchive)(
                f"{archive.name} holds more than {size_text(limit)}, too much for its size or"
                f" for the disk of {archive.parent}: free some space, or do not use this archive"
            )

    count = 0
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        with archive.open("rb") as file:
            for name, problem, content in _members(file, check):
                path = PurePosixPath(name)
                if not name or path.is_absolute() or ".." in path.parts or {"\\", "\0"} & {*name}:
                    problem = "a path that leads outside"
                if STATE in name.casefold().split("/"):
                    problem = f"a path in {STATE}, which is reserved"
                if problem:
                    raise UnusableArchive(
                        f"{archive.name} holds {shown(name)}, {problem}: do not use this archive"
                    )
                if content is None or not path.is_relative_to(inside):
                    continue
                place = staging / path.relative_to(inside)
                place.parent.mkdir(parents=True, exist_ok=True)
                with content() as source, place.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _PIECE)
                count += 1
                show(file.tell())
        if not count:
            where = f" below {inside}" if inside else ""
            raise UnusableArchive(f"{archive.name} contains no files{where}: download it again")
        target.mkdir(parents=True, exist_ok=True)
        _move(staging, target)
    except (OSError, *_DAMAGED) as error:
        # An offset before the first byte is an invalid argument.
        if isinstance(error, _DAMAGED) or error.errno == errno.EINVAL:
            reason = type(error).__name__
            raise UnusableArchive(
                f"{archive.name} is damaged ({reason}): download it again"
            ) from error
        raise cannot_write(error.filename or target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _members(
    file: BinaryIO, check: Callable[[int], None]
) -> Iterator[tuple[str, str, Callable[[], BinaryIO] | None]]:
    """Yields the name of every member, what is wrong with it, and what opens a file."""
    if zipfile.is_zipfile(file):
        archive = zipfile.ZipFile(file)
        check(sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            problem = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError  # zipfile would expand a piece of the others at once
            opener = None if member.is_dir() else lambda member=member: archive.open(member)
            yield member.filename, problem, opener
        return
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
    with tarfile.TarFile(fileobj=_Pieces(stream, check)) as archive:
        for member in archive:
            if member.size < 0:
                raise ValueError  # tarfile would read this member again and again
            problem = "" if member.isreg() or member.isdir() else "a link or a device"
            problem = "a sparse file" if member.issparse() else problem
            opener = None if member.isdir() else lambda member=member: archive.extractfile(member)
            yield member.name, problem, opener
        stream.seek(archive.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):
            raise ValueError  # tarfile takes a damaged header for the end


class _Pieces:
    """A file as tarfile reads it, in small pieces and up to a limit, whatever its headers claim."""

    def __init__(self, stream: BinaryIO, check: Callable[[int], None]):
        self._stream, self._check, self.tell = stream, check, stream.tell

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _PIECE:
            raise ValueError
        self._check(self.tell() + size)
        return self._stream.read(size)


def _move(source: Path, target: Path) -> None:
    """Moves what a folder holds into another one, which may hold a part of it."""
    for path in source.iterdir():
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        else:
            shutil.move(path, place)  # a folder may be a link to another disk


def is_intact(path: Path) -> bool:
    """Tells whether a file is a zip archive, and every part of it has its checksum (CRC)."""
    if not path.is_file():  # reading a pipe would block
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damaged archives raise nearly anything
        return False
