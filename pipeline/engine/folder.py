"""A stage's folder: what was computed for every image, and from what.

A stage's folder is ``<split>/<stage>/<key>/``. The key names what changes a result; the images are
not part of it. Every finished image has an entry in ``entries.jsonl`` with the recipe of the
computation, the fingerprint of its input and the fingerprint of each of its files. An image is done
when all of these still hold, so a killed run, a changed photograph and a damaged file all have the
same effect: that image is computed again, and no other. A folder is complete when its manifest says
so, which is written last.

The key covers all stages before, so a corrected tag or another tagger leads to a new folder of
CAMs. The CAMs of most images are the same in both: they are linked, not computed again.
"""

import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pipeline.engine.entries import (
    ENTRIES,
    PHOTOGRAPH,
    Inputs,
    holds,
    remove_files,
    result_of,
)
from pipeline.engine.result_folder import MANIFEST, ResultFolder, read_manifest
from pipeline.engine.versions import versions
from pipeline.errors import UserError
from pipeline.files.atomic import (
    TEMPORARY,
    link_or_copy,
    link_symbolically,
    read_json_lines,
    write_atomically,
    write_json_lines,
)
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import open_journal
from pipeline.files.lock import FolderLock

FAILURES = "failures.jsonl"
LATEST = "latest"

REMOVED = "removed.jsonl"
"""The ids of images that have results, and that the data set no longer has."""


def key_of(configuration: Mapping) -> str:
    """Returns the name of the folder for a configuration."""
    return fingerprint(configuration)[:12]


class StageFolder(ResultFolder):
    """The folder of one stage, split and key; a context manager that holds its lock.

    Attributes:
        stage: the stage's name.
        split: the split, or "" for a stage that belongs to no split.
        configuration: all that the results depend on, except the images.
        about: what the manifest says of the stage besides, see
            :attr:`pipeline.engine.stage.Stage.about`.
        run: when the run began that writes to it.
        key: the fingerprint of the configuration.
        computed: the number of results that it received since it was locked.
        reused: the number of those that were linked from a sibling instead.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        stage: str,
        configuration: Mapping,
        recipe: str = "",
        wait: float = 0.0,
        about: Mapping[str, Any] = {},
        run: str = "",
    ):
        self.key = key_of(configuration)
        path = root / split / stage / self.key
        super().__init__(path, recipe, path / ENTRIES)
        self.stage = stage
        self.split = split
        self.configuration = configuration
        self.about = about
        self.run = run
        self.computed = self.reused = 0
        self._lock = FolderLock(path, wait)
        self._began = 0.0

    @property
    def entries(self) -> dict[str, dict]:
        """Id → the image's last entry in ``entries.jsonl``."""
        return self._journal.entries

    @cached_property
    def failures(self) -> dict[str, str]:
        """Id → reason, of the skipped images."""
        lines = read_json_lines(self.path / FAILURES)
        return {line["id"]: str(line.get("reason", "unknown")) for line in lines}

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
            self._journal = open_journal(self.path / ENTRIES)
            self.__dict__.pop("failures", None)
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

    def candidates(self, image_id: str, inputs: Inputs) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yields intact results of these inputs and this recipe, with where their files are.

        Its own comes first. Siblings, folders of the stage with other settings, are read only then.
        """
        own = self._journal.entries.get(image_id, {})
        found = own.get("recipe"), own.get("inputs")
        if found == (self.recipe, inputs) and holds(self.path, own):
            yield self.path, own
        for place, entry in self._siblings.get(image_id, ()):
            if entry["inputs"] == inputs and holds(place, entry):
                yield place, entry

    def photograph_of(self, image_id: str) -> str | None:
        """Returns the fingerprint of the photograph that a result of this recipe was made from."""
        entry = self.entries.get(image_id, {})
        return entry["inputs"].get(PHOTOGRAPH) if entry.get("recipe") == self.recipe else None

    def result_of(self, image_id: str) -> str:
        """Returns the fingerprint of an image's result, for the inputs of later stages."""
        return result_of(self.entries[image_id])

    def known(self, image_id: str) -> list[Inputs]:
        """Returns the inputs of which an image's result exists, here or in a sibling."""
        own = self.entries.get(image_id, {})
        is_same = own.get("recipe") == self.recipe
        found = [(self.path, own)] * is_same + self._siblings.get(image_id, [])
        return [entry["inputs"] for place, entry in found if holds(place, entry)]

    @cached_property
    def _siblings(self) -> Mapping[str, list[tuple[Path, dict[str, Any]]]]:
        """Image id → siblings and their entries of this recipe; the last name comes first."""
        found: Mapping[str, list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
        for journal in sorted(self.path.parent.glob(f"*/{ENTRIES}"), reverse=True):
            sibling, is_readable = journal.parent, os.access(journal, os.R_OK)  # or another user's
            if is_readable and not sibling.is_symlink() and sibling.name != self.key:
                for entry in open_journal(journal).entries.values():
                    if entry.get("recipe") == self.recipe:
                        found[entry["id"]].append((sibling, entry))
        return found

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
        """Stores a journal entry, perhaps one that a worker wrote."""
        self._lock.check()
        self._journal.append(entry)
        self.failures.pop(entry["id"], None)
        self.computed += 1

    def fail(self, image_id: str, reason: str) -> None:
        """Records that an image is skipped, and why, and removes its earlier result."""
        self.failures[image_id] = reason
        self.drop(image_id)

    def drop(self, image_id: str) -> None:
        """Removes an image's files, and then the entry, which survives a kill."""
        remove_files(self.path, self.entries.get(image_id, {}))
        self.entries.pop(image_id, None)

    def begin(self, images: int) -> None:
        """Marks the folder as incomplete until :meth:`finish`; ``images`` is their number."""
        kept = ("computed", "seconds", "statistics")
        before = {k: v for k, v in self.manifest().items() if k in kept}
        self.write_manifest(complete=False, images=images, **before)

    def finish(
        self,
        image_ids: Collection[str],
        files: Mapping[str, bytes | str] = {},
        known: Collection[str] | None = None,
        statistics: Mapping[str, Any] = {},
    ) -> None:
        """Ends a pass over images: writes entries, failures and summaries, and the manifest last.

        Args:
            image_ids: the images of this run, skipped ones included.
            files: name → contents of the summaries.
            known: all images of the split. Others were removed: their failures are dropped, and
                those with results are listed in ``removed.jsonl``.
            statistics: what the manifest says of the results.
        """
        for name, data in files.items():
            write_atomically(self.path / name, data)
        self._journal.compact()
        if known is not None:
            for gone in self.failures.keys() - known:
                del self.failures[gone]
            removed = sorted(self.entries.keys() - known)
            write_json_lines(self.path / REMOVED, [{"id": image_id} for image_id in removed])
        self.write_failures()
        old = self.manifest()
        entries = self.entries
        traits = (t for i in image_ids if i in entries for t in entries[i].get("machine", ()))
        left_out = sum(i in self.failures for i in image_ids)
        seconds = round(time.monotonic() - self._began, 3)
        # An image may have been computed twice, when a worker died.
        computed = min(self.computed, len(image_ids) - left_out)
        self.write_manifest(
            complete=True,
            **({"statistics": dict(statistics)} if statistics else {}),
            input=fingerprint([[i, entries[i]["inputs"]] for i in image_ids if i in entries]),
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
        lines = [{"id": i, "reason": r} for i, r in sorted(self.failures.items())]
        write_json_lines(self.path / FAILURES, lines)

    def manifest(self) -> dict:
        """Returns the manifest; {} where there is none yet."""
        return read_manifest(self.path)

    @property
    def statistics(self) -> Mapping[str, Any]:
        """What the manifest says of the results; {} where it says nothing."""
        return self.manifest().get("statistics", {})

    @property
    def has_changed(self) -> bool:
        """Whether it received results since it was locked."""
        return bool(self.computed or self.reused)

    def write_manifest(self, *, complete: bool, **values: object) -> None:
        """Writes the manifest; ``latest`` points to the folder if all images were processed."""
        old, now = self.manifest(), datetime.now(UTC).isoformat(timespec="milliseconds")
        first = old.get("first_run", self.run)
        kept = {"first_run": first, "finished" if complete else "began": now}
        manifest = {
            "stage": self.stage,
            "split": self.split,
            "key": self.key,
            "recipe": self.recipe,
            "complete": complete,
            "run": self.run,
            **self.about,
            "configuration": self.configuration,
            "versions": versions(),
            "host": platform.node(),
            **kept,
            **values,
        }
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))
        if complete:
            self.point_latest()

    def point_latest(self) -> None:
        """Points the link ``latest`` to the folder."""
        link_symbolically(self.path.parent / LATEST, self.path.name)
