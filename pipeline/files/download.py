"""Downloads files over HTTP, verifies them, and resumes those that have a published checksum.

Without a checksum, nothing tells whether two parts belong to one version of a file. Neither torch,
torchvision nor pooch resumes a download, and huggingface_hub does not verify what it downloads, so
this is urllib with ``Range``.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.filesize import decimal

from pipeline.errors import UserError, shown
from pipeline.files.atomic import cannot_write, open_own

STATE = ".download"
"""The folder of unfinished files and archives, beside what they become, and of notes on these."""

Show = Callable[[int, int | None], None]
"""Is called with the number of bytes that have arrived, and of all if it is known."""

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without an answer
_HASHED = re.compile(r"https?://(download\.pytorch\.org/.*-|.*openaipublic.*/)([0-9a-f]{8,64})[./]")


@dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        name: its name here.
        urls: where it is, tried in this order.
        size: in bytes, if it is published.
        algorithm: of the published checksum: "md5", "sha1" or "sha256"; "" if none is published.
        digest: the checksum in hexadecimal, or its beginning.
        is_optional: whether there may be no such file.
        about: its size if only that of such a file is known, rounded; it is shown, not verified.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    algorithm: str = ""
    digest: str = ""
    is_optional: bool = False
    about: int | None = None

    @property
    def stated(self) -> int | None:
        """The size to show, exact or rounded; none if it is unknown."""
        return self.size or self.about


def source_at(url: str) -> Source:
    """Returns the file at an address; torchvision's and OpenAI's hold its SHA-256, or a part.

    Raises:
        UserError: the address names no file.
    """
    name = ""
    with suppress(ValueError):  # such as http://[::1/x
        name = PurePosixPath(urlsplit(url).path).name
    if name[:1] in ("", ".") or not url.isprintable():
        raise UserError(
            f"{shown(url)} names no file that can be downloaded: give the address of one"
        )
    digest = found[2] if (found := _HASHED.match(url)) else ""
    return Source(name, (url,), None, "sha256" if digest else "", digest)


class _Failed(Exception):
    """A URL did not give the file, and why."""


def size_text(size: int | None) -> str:
    """Returns a size in bytes in decimal units, as servers and disks state them."""
    return "unknown size" if size is None else decimal(size)


def kept_bytes(path: Path) -> int:
    """Returns how much an interrupted download of a file has left."""
    partial = _partial(path)
    return partial.stat().st_size if partial.is_file() and not partial.is_symlink() else 0


def _partial(path: Path) -> Path:
    folder = path.parent if path.parent.name == STATE else path.parent / STATE
    return folder / f"{path.name}.partial"


def fetch(source: Source, path: Path, show: Show = lambda *_: None, copies: int = 1) -> None:
    """Downloads a file unless it is there, and verifies it either way.

    With a published checksum, what arrived before a break is kept in ``.download`` beside the file,
    and the next call continues there. Callers let only one process at a time fetch a file.

    Args:
        path: where it appears when it is complete and verified.
        show: is called as bytes arrive.
        copies: how often the disk must have room for it.

    Raises:
        UserError: no URL gives the file, the disk is too small, or the file is not the published
            one; if it was downloaded, it was deleted.
    """
    if path.exists():
        if wrong := _differs(path, source):
            raise UserError(f"{path} is not the published file ({wrong}): move it away")
        return
    partial, failures, cause = _partial(path), [], None
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        needed = (source.size or 0) * copies - kept_bytes(path)
        if needed > free:
            raise UserError(
                f"{source.name} needs {size_text(needed)} in {path.parent}, where"
                f" {size_text(free)} are free: free some, or choose another folder"
            )
        for url in source.urls:
            try:
                _download(source, url, path, show)
                return
            except _Failed as error:
                failures.append(f"{url} {error}")
                cause = error.__cause__
    except OSError as error:
        raise cannot_write(error.filename or partial, error) from error
    finally:
        if not source.digest:
            partial.unlink(missing_ok=True)
    kept = kept_bytes(path)
    again = f"continue after {size_text(kept)}" if kept else "try again"
    raise UserError(
        f"{source.name} could not be downloaded: {'; '.join(failures)}: run the same command to"
        f" {again}, or download it elsewhere and store it as {path}"
    ) from cause


def _differs(path: Path, source: Source) -> str:
    """Says in what a file differs from the published one; "" if it does not, as far as known."""
    if not path.is_file():  # reading a pipe would block
        return "it is not a file"
    if source.size not in (None, size := path.stat().st_size):
        return f"it holds {size} bytes instead of {source.size}"
    if source.digest:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, source.algorithm).hexdigest()
        if not found.startswith(source.digest):
            return f"its {source.algorithm} is {found} instead of {source.digest}"
    return ""


def _download(source: Source, url: str, path: Path, show: Show) -> None:
    """Fetches what is missing, as long as every connection brings something, and verifies it."""
    if not url.startswith(("http://", "https://")):
        raise _Failed("is not an address of the web")
    partial = _partial(path)
    start = kept_bytes(path) if source.digest else 0
    while not start or source.size is None or start < source.size:
        is_complete = _receive(source, url, partial, start, show)
        arrived = kept_bytes(path)
        if is_complete:
            break
        if not source.digest or arrived == start:
            raise _Failed(f"broke off after {size_text(arrived)}")
        start = arrived
    if wrong := _differs(partial, source):
        partial.unlink()
        raise _Failed(f"does not give the published file ({wrong}), and it was deleted")
    size = kept_bytes(path)
    show(size, size)  # raises if another process took over meanwhile
    partial.replace(path)


def _receive(source: Source, url: str, partial: Path, start: int, show: Show) -> bool:
    """Writes a file from byte ``start`` on; tells whether it is complete, as far as known."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "annotation-free-segmentation"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the file ends before
            partial.unlink()
        reason = str(error.reason).partition(".\n")[0]  # urllib's on redirections has lines
        raise _Failed(f"answers {error.code} ({shown(reason)})") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        detail = getattr(reason, "strerror", None) or reason or type(reason).__name__
        raise _Failed(f"cannot be reached ({shown(detail)})") from error
    if response.status not in (200, 206):
        response.close()
        raise _Failed(f"answers {response.status} ({shown(response.reason)})")
    is_part = response.status == 206  # a server without ranges sends all of it
    if not is_part:
        partial.unlink(missing_ok=True)
    with response, open(partial, "ab" if is_part else "xb", opener=open_own) as file:
        length = response.length
        end = source.size if length is None else file.tell() + length
        if end is None and not (source.digest or response.chunked):
            raise _Failed("does not state the size, so a file that breaks off would seem complete")
        while True:
            show(file.tell(), end)
            try:
                chunk = response.read(_CHUNK)
            except (OSError, HTTPException):  # the connection broke
                return False
            if not chunk:
                return end is None or file.tell() >= end
            file.write(chunk)
