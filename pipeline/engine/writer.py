"""Writes a stage's folder: entries, failures, summaries, and the manifest last."""

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pipeline.engine.records import ENTRIES, LATEST, MANIFEST, read_manifest, remove_files
from pipeline.engine.results import FAILURES, REMOVED, Results
from pipeline.engine.store import Store
from pipeline.engine.versions import versions
from pipeline.errors import UserError
from pipeline.files.atomic import (
    TEMPORARY,
    link_or_copy,
    link_symbolically,
    write_atomically,
    write_json_lines,
)
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import Journal
from pipeline.files.lock import FolderLock


class Writer:
    """Writes to a stage's folder; a context manager that holds its lock.

    Attributes:
        results: what is in the folder; an entry that is stored is among its own at once.
        path: the folder.
        computed: the number of results that were stored since the folder was locked.
        reused: the number of those that were linked from a sibling instead.
    """

    def __init__(self, results: Results, about: Mapping[str, Any], store: Store):
        """Locks nothing yet; ``about`` is what the manifest says of the stage."""
        self.results, self.path = results, results.path
        self.computed = self.reused = 0
        self._about, self._run = about, store.began
        self._lock = FolderLock(results.path, store.wait)
        self._began = 0.0

    @property
    def has_changed(self) -> bool:
        """Whether it received results since it was locked."""
        return bool(self.computed or self.reused)

    def __enter__(self) -> Self:
        if (latest := self.path.parent / LATEST).is_dir() and not latest.is_symlink():
            raise UserError(f"{latest} is a folder, not a link to one: rename it, or remove it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; choose another output_dir"
            ) from error
        try:
            # Another run may have written since the folder was looked at.
            for name in ("manifest", "failures", "_siblings"):
                vars(self.results).pop(name, None)
            self._journal = Journal(self.path / ENTRIES)
            self.results.entries = self._journal.entries
            if "began" in self.results.manifest and not self.results.manifest.get("aside"):
                self._add_stopped_turn()  # before the journal is written
            for stale in self.path.rglob(f"{TEMPORARY}*"):
                stale.unlink(missing_ok=True)
            self._journal.compact()
            if damaged := self._journal.damaged:
                lines = "1 damaged line" if damaged == 1 else f"{damaged} damaged lines"
                print(f"note: {lines} in {self.path / ENTRIES} dropped", file=sys.stderr)
        except BaseException:
            self._lock.release()
            raise
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._lock.release()

    def reuse(self, entry: dict[str, Any], source: Path) -> None:
        """Takes over an intact entry of ``source``, a sibling whose files are linked or copied.

        An entry of this folder, whose thresholds changed, replaces the old one.
        """
        for name in entry.get("files", {}) if source != self.path else ():
            link_or_copy(source / name, self.path / name)
        self.adopt(entry)
        self.computed -= 1
        self.reused += 1

    def adopt(self, entry: dict) -> None:
        """Stores the entry of an image whose files are written."""
        self._lock.check()
        self._journal.append(entry)
        self.results.failures.pop(entry["id"], None)
        self.computed += 1

    def fail(self, image_id: str, reason: str) -> None:
        """Records that an image is skipped, and why, and removes its earlier result."""
        self.results.failures[image_id] = reason
        self.drop(image_id)

    def drop(self, image_id: str) -> None:
        """Removes an image's files, and then the entry, which survives a kill."""
        remove_files(self.path, self.results.entries.get(image_id, {}))
        self.results.entries.pop(image_id, None)

    def begin(self, images: int, aside: bool = False) -> None:
        """Marks the folder of so many images as incomplete; ``aside``, in another stage's turn."""
        kept = ("computed", "seconds", "statistics", "counterparts")
        before = {k: v for k, v in self.results.manifest.items() if k in kept}
        self.write_manifest(complete=False, images=images, aside=aside, **before)

    def _add_stopped_turn(self) -> None:
        """Adds the seconds of a turn that was stopped, up to its last line of a journal or log."""
        old, written = self.results.manifest, (".jsonl", ".log", ".pth")
        times = [p.stat().st_mtime for p in self.path.rglob("*") if p.suffix in written]
        with suppress(ValueError):  # of a manifest that is not ours
            began = datetime.fromisoformat(old["began"]).timestamp()
            old["seconds"] = round(old.get("seconds", 0) + max([began, *times]) - began, 3)
        self.begin(old.get("images", 0))

    def finish(
        self,
        image_ids: Collection[str],
        files: Mapping[str, bytes | str] = {},
        known: Collection[str] | None = None,
        statistics: Mapping[str, Any] = {},
        counterparts: Mapping[str, Sequence[str]] = {},
    ) -> None:
        """Ends a pass over images: writes entries, failures and summaries, and the manifest last.

        Args:
            image_ids: the images of this run, skipped ones included.
            files: name → contents of the summaries.
            known: all images of the split. Others were removed: their failures are dropped, and
                those with results are listed in ``removed.jsonl``.
            statistics: what the manifest says of the results.
            counterparts: what the run is on each split, which the manifest says of every run.
        """
        entries, failures, old = self.results.entries, self.results.failures, self.results.manifest
        for name, data in files.items():
            write_atomically(self.path / name, data)
        self._journal.compact()
        if known is not None:
            for gone in failures.keys() - known:
                del failures[gone]
            removed = sorted(entries.keys() - known)
            write_json_lines(self.path / REMOVED, [{"id": image_id} for image_id in removed])
        self.write_failures()
        traits = (t for i in image_ids if i in entries for t in entries[i].get("machine", ()))
        left_out = sum(i in failures for i in image_ids)
        seconds = round(time.monotonic() - self._began, 3)
        runs = [run for run in old.get("counterparts", ()) if run != counterparts]
        # An image may have been computed twice, when a worker died.
        computed = min(self.computed, len(image_ids) - left_out)
        self.write_manifest(
            complete=True,
            **({"statistics": dict(statistics)} if statistics else {}),
            counterparts=[*runs, *filter(None, [counterparts])],
            inputs=fingerprint([[i, entries[i]["inputs"]] for i in image_ids if i in entries]),
            machines=Counter(traits),
            images=len(image_ids),
            left_out=left_out,
            computed=old.get("computed", 0) + self.computed,
            seconds=round(old.get("seconds", 0) + seconds, 3),
            last={
                "images": len(image_ids),
                "computed": computed,
                "cached": len(image_ids) - left_out - computed - self.reused,
                "reused": self.reused,
                "seconds": seconds,
            },
        )

    def write_failures(self) -> None:
        """Writes ``failures.jsonl``."""
        lines = [{"id": i, "reason": r} for i, r in sorted(self.results.failures.items())]
        write_json_lines(self.path / FAILURES, lines)

    def write_manifest(self, *, complete: bool, **values: object) -> None:
        """Writes the manifest; ``latest`` points to the folder if all images were processed."""
        results, now = self.results, datetime.now(UTC).isoformat(timespec="milliseconds")
        manifest = {
            "stage": results.name,
            "split": results.split,
            "key": results.key,
            "own_key": results.own_key,
            "complete": complete,
            "run": self._run,
            **self._about,
            "versions": versions(),
            "host": platform.node(),
            "first_run": results.manifest.get("first_run", self._run),
            "finished" if complete else "began": now,
            **values,
        }
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))
        results.manifest = read_manifest(self.path)
        if complete:
            self.point_latest()

    def point_latest(self) -> None:
        """Points the link ``latest`` to the folder."""
        link_symbolically(self.path.parent / LATEST, self.path.name)
