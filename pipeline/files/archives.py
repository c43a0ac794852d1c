"""Unpacks tar and zip archives that are not trusted.

Of a member, only its name and its bytes are used: no owner, mode, date, link or device.
"""

from __future__ import annotations

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


class UnusableArchive(UserError):
    """The archive is damaged, or holds what it must not."""


_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted member
    ValueError,
)
"""What the standard library raises for a damaged archive; gzip raises OSError without a number."""


def unpack(
    archive: Path, target: Path, inside: str = "", show: Callable[[int], None] = lambda _: None
) -> int:
    """Unpacks an archive into a folder; all of it, or nothing.

    Files of the same names are replaced.

    Args:
        archive: a zip file, or a tar file that may be compressed.
        target: the folder.
        inside: the folder in the archive whose contents are unpacked; the rest is ignored.
        show: is called with the number of bytes of the archive that were read.

    Returns:
        The number of files.

    Raises:
        UnusableArchive: it is damaged, holds a link, a device or a path that leads outside, or
            nothing below ``inside``.
        UserError: the files cannot be written.
    """
    staging = archive.with_name(f"{TEMPORARY}{archive.name}")
    count = 0
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        with archive.open("rb") as file:
            for name, content in _members(file):
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
                    raise UnusableArchive(
                        f"{archive.name} holds {shown(name)}, a path that leads outside: do not use"
                        " this archive"
                    )
                if content is None or not path.is_relative_to(inside):
                    continue
                place = staging / path.relative_to(inside)
                place.parent.mkdir(parents=True, exist_ok=True)
                with content() as source, place.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                count += 1
                show(file.tell())
        if not count:
            where = f" below {inside}" if inside else ""
            raise UnusableArchive(f"{archive.name} contains no files{where}: download it again")
        target.mkdir(parents=True, exist_ok=True)
        _move(staging, target)
    except _DAMAGED as error:
        raise UnusableArchive(
            f"{archive.name} is damaged ({type(error).__name__}): download it again"
        ) from error
    except OSError as error:
        if error.errno is None:  # gzip's
            raise UnusableArchive(
                f"{archive.name} is damaged ({error}): download it again"
            ) from error
        raise cannot_write(error.filename or target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _members(file: BinaryIO) -> Iterator[tuple[str, Callable[[], BinaryIO] | None]]:
    """Yields the name of every member, and what opens a file; none for a folder.

    Raises:
        UnusableArchive: a member is neither.
    """
    if zipfile.is_zipfile(file):
        archive = zipfile.ZipFile(file)
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _refuse(member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            opener = None if member.is_dir() else lambda member=member: archive.open(member)
            yield member.filename, opener
        return
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            _refuse(member.name, not (member.isreg() or member.isdir()))
            opener = None if member.isdir() else lambda member=member: archive.extractfile(member)
            yield member.name, opener


def _refuse(name: str, is_special: bool) -> None:
    if is_special:
        raise UnusableArchive(
            f"the archive holds {shown(name)}, a link or a device: do not use this archive"
        )


def _move(source: Path, target: Path) -> None:
    """Moves what a folder holds into another one, which may hold a part of it."""
    for path in source.iterdir():
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        else:
            shutil.move(path, place)  # a folder may be a link to another disk
