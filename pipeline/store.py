"""What has been computed: the only code that writes below ``output_dir``.

A stage's folder is ``<split>/<stage>/<key>/``. The key names what changes a result; the images are
not part of it. Every finished image has a line in ``entries.jsonl`` with the fingerprint of its
input and, where it has a file, of the file's bytes. An image is done when both still hold, so a
killed run, a changed photograph and a damaged file all lead to the same thing: that image is
computed again, and no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import UserError

ENTRIES, FAILURES, MANIFEST, LATEST = "entries.jsonl", "failures.jsonl", "manifest.json", "latest"
_TEMPORARY = ".partial-"
_PACKAGES = ("torch", "open_clip_torch", "numpy", "scikit-image", "pydensecrf2", "mmsegmentation")


def fingerprint(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that name the parts: bytes, or anything JSON can hold."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else canonical_json(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """Returns the fingerprint of a file's bytes; an unchanged file is read once in a process.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _fingerprint_file(path, status.st_size, status.st_mtime_ns)


@cache
def _fingerprint_file(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def join_keys(image: str, *others: str) -> str:
    """Returns the key of an input that is an image and what was made from it before."""
    return "-".join([image, *others])


def canonical_json(value: Any) -> str:
    """Returns JSON in which equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a file so that it appears whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; what was finished is kept, run the same"
            " command again when this is mended"
        ) from error


class StageFolder:
    """The folder of one stage, split and key; a context manager that holds its lock.

    Attributes:
        path: the folder.
        entries: id → the image's last line in ``entries.jsonl``.
        failures: id → reason, for the images that were left out.
    """

    def __init__(self, path: Path, stage: str, split: str, key: str, configuration: Mapping):
        self.path = path
        self.stage = stage
        self.split = split
        self.key = key
        self.configuration = configuration
        self.entries: dict[str, dict] = {e["id"]: e for e in _read_lines(path / ENTRIES)}
        self.failures: dict[str, str] = {
            line["id"]: line["reason"] for line in _read_lines(path / FAILURES)
        }
        self._journal = None
        self._lock = FileLock(path / ".lock")
        self._computed = 0
        self._began = 0.0

    def __enter__(self) -> StageFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for stale in self.path.rglob(f"{_TEMPORARY}*"):
                stale.unlink(missing_ok=True)
            self._compact()
        except Timeout as error:
            holder = _read_json(self.path / ".holder.json") or {}
            raise UserError(
                f"{self.path} is being written by process {holder.get('process', '?')} on"
                f" {holder.get('host', '?')} since {holder.get('since', '?')}:"
                " wait for it or stop it"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another output_dir"
            ) from error
        holder = {"process": os.getpid(), "host": platform.node(), "since": _now()}
        write_atomically(self.path / ".holder.json", json.dumps(holder))
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_journal()
        (self.path / ".holder.json").unlink(missing_ok=True)
        self._lock.release()

    def is_done(self, image_id: str, input_key: str) -> bool:
        """Tells whether an image's result is there, whole, and made from this input."""
        entry = self.entries.get(image_id)
        if entry is None or entry["input"] != input_key:
            return False
        files = entry.get("files", {})
        return all(self._holds(self.path / name, digest) for name, digest in files.items())

    @staticmethod
    def _holds(path: Path, digest: str) -> bool:
        return path.is_file() and fingerprint(path.read_bytes()) == digest

    def write(
        self, image_id: str, input_key: str, files: Mapping[str, bytes], **facts: Any
    ) -> None:
        """Stores an image's files and then its line.

        Args:
            image_id: the image.
            input_key: the fingerprint of what the result was made from.
            files: name below the stage's folder → bytes.
            facts: what else the line holds.
        """
        for name, data in files.items():
            path = self.path / name
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"image id {image_id!r} leaves the output folder: rename the image")
            write_atomically(path, data)
        digests = {name: fingerprint(data) for name, data in files.items()}
        self.record(image_id, input_key, files=digests, **facts)

    def is_of_image(self, image_id: str, image: str) -> bool:
        """Tells whether there is a result, made from the image with this fingerprint."""
        entry = self.entries.get(image_id)
        return entry is not None and entry["input"].split("-")[0] == image

    def output_key(self, image_id: str) -> str:
        """Returns the fingerprint of an image's result, for the input of what hangs on it."""
        entry = self.entries[image_id]
        return fingerprint({k: v for k, v in entry.items() if k != "input"})

    def record(self, image_id: str, input_key: str, **facts: Any) -> None:
        """Stores an image's line, with further facts that JSON can hold."""
        entry = {"id": image_id, "input": input_key, **facts}
        try:
            if self._journal is None:
                self._journal = (self.path / ENTRIES).open("a", encoding="utf-8")
            self._journal.write(canonical_json(entry) + "\n")
            self._journal.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path / ENTRIES}: {error.strerror}; run the same command again"
                " when this is mended"
            ) from error
        self.entries[image_id] = entry
        self.failures.pop(image_id, None)
        self._computed += 1

    def fail(self, image_id: str, reason: str) -> None:
        """Records that an image is left out, and why."""
        self.failures[image_id] = reason
        self.entries.pop(image_id, None)

    def finish(self, image_ids: Iterable[str], files: Mapping[str, bytes | str] = {}) -> None:
        """Closes a pass over the images: sorted entries, failures, summary files, manifest last.

        Args:
            image_ids: the images of this run, whether done or left out.
            files: name → contents of files that sum up the stage.
        """
        for name, data in files.items():
            write_atomically(self.path / name, data)
        self._close_journal()
        self._compact()
        lines = [{"id": i, "reason": r} for i, r in sorted(self.failures.items())]
        if lines:
            write_atomically(self.path / FAILURES, _to_lines(lines))
        else:
            (self.path / FAILURES).unlink(missing_ok=True)
        image_ids = list(image_ids)
        old = self.manifest()
        self.write_manifest(
            input=self.input_key(image_ids),
            images=len(image_ids),
            left_out=sum(i in self.failures for i in image_ids),
            computed=old.get("computed", 0) + self._computed,
            seconds=round(old.get("seconds", 0) + time.monotonic() - self._began, 3),
        )

    def input_key(self, image_ids: Iterable[str]) -> str:
        """Returns the fingerprint of the inputs that these images' results were made from."""
        entries = (self.entries[i] for i in image_ids if i in self.entries)
        return fingerprint([[e["id"], e["input"]] for e in entries])

    def write_manifest(self, **facts: Any) -> None:
        """Writes the manifest, which makes the stage complete, and points ``latest`` to it."""
        facts = {
            "stage": self.stage,
            "split": self.split,
            "key": self.key,
            "configuration": self.configuration,
            "versions": package_versions(),
            "host": platform.node(),
            "finished": _now(),
            **facts,
        }
        write_atomically(self.path / MANIFEST, json.dumps(facts, indent=2, ensure_ascii=False))
        point_latest(self.path)

    def manifest(self) -> dict:
        """Returns the manifest, or an empty one where the stage was never complete."""
        return _read_json(self.path / MANIFEST) or {}

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _compact(self) -> None:
        """Writes the journal anew: one line an image, sorted, without a torn last line."""
        lines = [self.entries[key] for key in sorted(self.entries)]
        text = _to_lines(lines)
        path = self.path / ENTRIES
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if old != text:
            write_atomically(path, text)


class Store:
    """The folders below ``output_dir``."""

    def __init__(self, root: Path):
        self.root = root

    def folder(self, split: str, stage: str, configuration: Mapping) -> StageFolder:
        """Returns a stage's folder for a split ("" for a stage that has none)."""
        key = fingerprint(configuration)[:12]
        path = self.root / split / stage / key
        return StageFolder(path, stage, split, key, configuration)

    def manifests(self) -> list[tuple[Path, dict]]:
        """Returns the folder and manifest of every complete stage, oldest first."""
        found = [
            (path.parent, _read_json(path))
            for pattern in (f"*/*/*/{MANIFEST}", f"segmenter/*/{MANIFEST}")
            for path in self.root.glob(pattern)
            if not path.parent.is_symlink()
        ]
        return sorted((f for f in found if f[1]), key=lambda f: f[1].get("finished", ""))


def point_latest(path: Path) -> None:
    """Makes the link ``latest`` beside a folder point to it."""
    temporary = path.parent / f"{_TEMPORARY}{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name)
    temporary.replace(path.parent / LATEST)


def folder_size(path: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())


def remove_folder(path: Path) -> None:
    """Removes a stage's folder and all that is in it."""
    shutil.rmtree(path)


@cache
def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return versions


def _read_lines(path: Path) -> list[dict]:
    """Reads JSON lines; a line that a kill or a crash tore is passed over."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and "id" in value:
            lines.append(value)
    return lines


def _to_lines(values: Iterable[Mapping]) -> str:
    return "".join(canonical_json(value) + "\n" for value in values)


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
