"""Unpacks the archives of data sets by the standard library.

A tar archive may name files outside the folder that it is unpacked into. Only those are unpacked
that have a published checksum, which was compared before (``datasets/sources.yaml``).
"""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import UserError
from pipeline.files.atomic import TEMPORARY, cannot_write
from pipeline.files.download import size_text


class UnusableArchive(UserError):
    """The archive is damaged or empty."""


_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_DAMAGED += (RuntimeError, ValueError, ArithmeticError, LookupError)
"""Errors of the standard library for damaged archives and encrypted members."""


def unpack(
    archive: Path, target: Path, inside: str = "", show: Callable[[int], None] = lambda _: None
) -> int:
    """Unpacks an archive into a folder, all of it or nothing, and returns the number of files.

    Files of the same names are replaced.

    Args:
        archive: a zip file, or a tar file, perhaps compressed, that a checksum has verified.
        inside: the folder in the archive whose contents are kept.
        show: is called with the number of bytes of the archive that were read.

    Raises:
        UnusableArchive: it is damaged, or holds nothing below ``inside``.
        UserError: the files cannot be written, or the disk is too small.
    """
    staging = archive.with_name(f"{TEMPORARY}{archive.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        staging.mkdir()
        with archive.open("rb") as file:
            extract = _extract_zip if zipfile.is_zipfile(file) else _extract_tar
            extract(file, staging, show)
        kept = staging / inside
        if not (count := sum(path.is_file() for path in kept.rglob("*"))):
            where = f" below {inside}" if inside else ""
            raise UnusableArchive(f"{archive.name} contains no files{where}: download it again")
        target.mkdir(parents=True, exist_ok=True)
        _move(kept, target)
    except _DAMAGED as error:
        reason = type(error).__name__
        raise UnusableArchive(f"{archive.name} is damaged ({reason}): download it again") from error
    except OSError as error:
        raise cannot_write(error.filename or target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _extract_zip(file: BinaryIO, folder: Path, show: Callable[[int], None]) -> None:
    """Extracts a zip file; zipfile keeps its members inside the folder, and checks their CRC."""
    with zipfile.ZipFile(file) as archive:
        size, free = sum(m.file_size for m in archive.infolist()), shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"{Path(file.name).name} holds {size_text(size)}, and {size_text(free)} are free in"
                f" {folder.parent}: free some space"
            )
        for member in archive.infolist():
            archive.extract(member, folder)
            show(file.tell())


def _extract_tar(file: BinaryIO, folder: Path, show: Callable[[int], None]) -> None:
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        # Python 3.11.0 to 3.11.3 lack the filter.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in archive:
            archive.extract(member, folder)
            show(file.tell())


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
