"""What has been computed: the only code that writes below ``output_dir``.

A stage's folder is ``<split>/<stage>/<key>/``. The key names what changes a result; the images are
not part of it. Every finished image has a line in ``entries.jsonl`` with the fingerprint of its
input and, where it has a file, of the file's bytes. An image is done when both still hold, so a
killed run, a changed photograph and a damaged file all lead to the same thing: that image is
computed again, and no other.
"""

from __future__ import annotations

import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.files import TEMPORARY, read_json, read_json_lines, to_json_lines, write_atomically
from pipeline.fingerprints import canonical_json, fingerprint
from pipeline.versions import versions

ENTRIES, FAILURES, MANIFEST, LATEST = "entries.jsonl", "failures.jsonl", "manifest.json", "latest"


class StageFolder:
    """The folder of one stage, split and key; a context manager that holds its lock.

    Attributes:
        path: the folder.
        entries: id → the image's last line in ``entries.jsonl``.
        failures: id → reason, for the images that were left out.
        computed: how many images' results were stored since the folder was locked.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        split: str,
        key: str,
        configuration: Mapping,
        becomes_latest: bool = True,
    ):
        self.path = path
        self.stage = stage
        self.split = split
        self.key = key
        self.configuration = configuration
        self.becomes_latest = becomes_latest
        self.entries: dict[str, dict] = {e["id"]: e for e in read_json_lines(path / ENTRIES)}
        self.failures: dict[str, str] = {
            line["id"]: line["reason"] for line in read_json_lines(path / FAILURES)
        }
        self._journal = None
        self._lock = FileLock(path / ".lock")
        self.computed = 0
        self._began = 0.0

    def __enter__(self) -> StageFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            for stale in self.path.rglob(f"{TEMPORARY}*"):
                stale.unlink(missing_ok=True)
            self._compact()
        except Timeout as error:
            holder = read_json(self.path / ".holder.json") or {}
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
        self.computed += 1

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
            write_atomically(self.path / FAILURES, to_json_lines(lines))
        else:
            (self.path / FAILURES).unlink(missing_ok=True)
        image_ids = list(image_ids)
        old = self.manifest()
        self.write_manifest(
            input=self.input_key(image_ids),
            images=len(image_ids),
            left_out=sum(i in self.failures for i in image_ids),
            computed=old.get("computed", 0) + self.computed,
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
            "versions": versions(),
            "host": platform.node(),
            "finished": _now(),
            **facts,
        }
        write_atomically(self.path / MANIFEST, json.dumps(facts, indent=2, ensure_ascii=False))
        self.point_latest()

    def manifest(self) -> dict:
        """Returns the manifest, or an empty one where the stage was never complete."""
        return read_json(self.path / MANIFEST) or {}

    def point_latest(self) -> None:
        """Makes the link ``latest`` beside the folder point to it, unless it is a comparison's."""
        if not self.becomes_latest:
            return
        temporary = self.path.parent / f"{TEMPORARY}{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        temporary.replace(self.path.parent / LATEST)

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _compact(self) -> None:
        """Writes the journal anew: one line an image, sorted, without a torn last line."""
        lines = [self.entries[key] for key in sorted(self.entries)]
        text = to_json_lines(lines)
        path = self.path / ENTRIES
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if old != text:
            write_atomically(path, text)


class Store:
    """The folders below ``output_dir``."""

    def __init__(self, root: Path):
        self.root = root

    def folder(
        self, split: str, stage: str, configuration: Mapping, becomes_latest: bool = True
    ) -> StageFolder:
        """Returns a stage's folder.

        Args:
            split: the split, or "" for a stage that has none.
            stage: the stage.
            configuration: what its result depends on.
            becomes_latest: whether ``latest`` points to it when it is complete.
        """
        key = fingerprint(configuration)[:12]
        path = self.root / split / stage / key
        return StageFolder(path, stage, split, key, configuration, becomes_latest)

    def array(self, kind: str, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns an array that does not belong to an image; it is made once and kept.

        Args:
            kind: the folder below the root.
            key: names all that the array depends on.
            make: computes it.
        """
        path = self.root / kind / f"{key}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            buffer = io.BytesIO()
            np.save(buffer, made := make(), allow_pickle=False)
            write_atomically(path, buffer.getvalue())
            return made

    def manifests(self) -> list[tuple[Path, dict]]:
        """Returns the folder and manifest of every complete stage, oldest first."""
        found = [
            (path.parent, read_json(path))
            for pattern in (f"*/*/*/{MANIFEST}", f"segmenter/*/{MANIFEST}")
            for path in self.root.glob(pattern)
            if not path.parent.is_symlink()
        ]
        return sorted((f for f in found if f[1]), key=lambda f: f[1].get("finished", ""))


def folder_size(path: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and not f.is_symlink())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
