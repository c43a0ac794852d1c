"""Downloads files over HTTP: resumed after a break, and verified before they get their name.

Neither torch, torchvision nor pooch resumes a download, and huggingface_hub does not verify what it
downloads, so this is urllib with ``Range``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pipeline.errors import UserError
from pipeline.files.atomic import cannot_write

PARTIAL = ".partial"
"""What is appended to the name of an unfinished file."""

_AGENT = "annotation-free-segmentation"
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        name: its name here.
        urls: where it is, tried in this order.
        size: in bytes, if it is published.
        algorithm: of the published checksum: "md5" or "sha256"; "" if none is published.
        digest: the checksum in hexadecimal, or its beginning.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    algorithm: str = ""
    digest: str = ""


class _Failed(Exception):
    """A URL did not give the file, and why."""


def size_text(size: int | None) -> str:
    """Returns a size in bytes in decimal units, as servers and disks state them."""
    if size is None:
        return "unknown size"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def kept_bytes(path: Path) -> int:
    """Returns how much an interrupted download of a file has left."""
    partial = _partial(path)
    return partial.stat().st_size if partial.is_file() else 0


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def fetch(
    source: Source,
    path: Path,
    show: Callable[[int, int | None], None] = lambda *_: None,
    copies: int = 1,
) -> None:
    """Downloads a file unless it is there, and verifies it either way.

    What arrived before a break is kept beside it, and the next call goes on from there.

    Args:
        source: the file.
        path: where it appears when it is complete and verified.
        show: is called with the number of bytes that have arrived, and of all if it is known.
        copies: how often the disk must have room for it.

    Raises:
        UserError: no URL gives the file, the disk is too small, or the file is not the published
            one; if it was downloaded, it was deleted.
    """
    if path.exists():
        if wrong := _differs(path, source):
            raise UserError(f"{path} is not the published file ({wrong}): move it away")
        return
    make_folder(path.parent)
    download = _Download(source, path, show)
    download.check_space(copies)
    failures = []
    for url in source.urls:
        try:
            download.complete(url)
            break
        except _Failed as error:
            failures.append(f"{url} {error}")
    else:
        kept = download.received
        again = f"continue after {size_text(kept)}" if kept else "try again"
        raise UserError(
            f"{source.name} could not be downloaded: {'; '.join(failures)}: run the same command to"
            f" {again}, or download it elsewhere and store it as {path}"
        )
    download.verify(url)


def _differs(path: Path, source: Source) -> str:
    """Says in what a file differs from the published one; "" if it does not, as far as known."""
    if source.size not in (None, size := path.stat().st_size):
        return f"it holds {size} bytes instead of {source.size}"
    if source.digest:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, source.algorithm).hexdigest()
        if not found.startswith(source.digest):
            return f"its {source.algorithm} is {found} instead of {source.digest}"
    return ""


@dataclass(frozen=True)
class _Download:
    """A file on its way; the arguments are those of :func:`fetch`."""

    source: Source
    path: Path
    show: Callable[[int, int | None], None]

    @property
    def partial(self) -> Path:
        """What has arrived of the file."""
        return _partial(self.path)

    @property
    def etag(self) -> Path:
        """What the server calls the version of the file that has arrived in part."""
        return self.path.with_name(self.path.name + ".etag")

    @property
    def received(self) -> int:
        """The number of bytes that have arrived."""
        return kept_bytes(self.path)

    def check_space(self, copies: int) -> None:
        """Makes sure that the disk has room; see :func:`fetch`."""
        free = shutil.disk_usage(self.path.parent).free
        needed = (self.source.size or 0) * copies - self.received
        if needed > free:
            raise UserError(
                f"{self.source.name} needs {size_text(needed)} in {self.path.parent}, where"
                f" {size_text(free)} are free: free some, or choose another folder"
            )

    def complete(self, url: str) -> None:
        """Fetches what is missing: reconnects as long as every connection brings something."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise _Failed("is not an address of the web")
        if self.source.size is not None and self.received > self.source.size:
            self.partial.unlink()
        while self.source.size is None or self.received < self.source.size:
            before = self.received
            headers = {"Accept-Encoding": "identity", "User-Agent": _AGENT}
            if before:
                headers["Range"] = f"bytes={before}-"
                if self.etag.is_file():  # a file that has changed since is then sent whole
                    headers["If-Range"] = self.etag.read_text(encoding="utf-8")
            try:
                response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
            except HTTPError as error:
                error.close()
                if error.code != 416 or not before:
                    raise _Failed(f"answers {error.code} ({error.reason})") from error
                # Nothing follows what is here: it is complete, or of another version.
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return
                self.partial.unlink()
                continue
            except (OSError, HTTPException, ValueError) as error:
                reason = getattr(error, "reason", error)
                detail = getattr(reason, "strerror", None) or reason or type(reason).__name__
                raise _Failed(f"cannot be reached ({detail})") from error
            try:
                with response:
                    if self._receive(response):
                        return
            except OSError as error:  # of writing; a broken connection is not an error
                raise cannot_write(self.partial, error) from error
            if self.received <= before:
                raise _Failed(f"broke off after {size_text(self.received)}")

    def _receive(self, response: HTTPResponse) -> bool:
        """Appends what a response brings; tells whether the file is complete."""
        start = 0
        if response.status == 206:
            start = self.received
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise _Failed("sends another part than the one asked for")
        total = None if response.length is None else start + response.length
        if None not in (self.source.size, total) and total != self.source.size:
            raise _Failed(f"holds {total} bytes instead of the published {self.source.size}")
        version = response.headers.get("ETag", "")
        if start == 0 and version.startswith('"'):  # others do not promise equal bytes
            self.etag.write_text(version, encoding="utf-8")
        elif start == 0:
            self.etag.unlink(missing_ok=True)
        end = self.source.size or total
        with self.partial.open("ab" if start else "wb") as file:
            while True:
                self.show(file.tell(), end)
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, HTTPException):  # the connection broke
                    return False
                if not chunk or (end is not None and file.tell() > end):
                    return end is None or file.tell() == end
                file.write(chunk)

    def verify(self, url: str) -> None:
        """Gives the file its name if it is the published one, and deletes it otherwise."""
        self.etag.unlink(missing_ok=True)
        if wrong := _differs(self.partial, self.source):
            self.partial.unlink()
            raise UserError(
                f"{url} does not give the published {self.source.name} ({wrong}): it was deleted;"
                " run the same command to try again, and if that does not help, download it"
                f" elsewhere and store it as {self.path}"
            )
        self.partial.replace(self.path)
