"""The results of a stage: what was computed for every image, and from what.

A stage's folder is ``<split>/<stage>/<key>/``. The key names what changes a result; the images are
not part of it. Every finished image has an entry in ``entries.jsonl`` with the fingerprints of how
it was computed, of its inputs and of each of its files. An image is done when all of these still
hold, so a killed run, a changed photograph and a damaged file all have the same effect: that image
is computed again, and no other. A folder is complete when its manifest, written last, says so.

The key covers all stages before, so a corrected tag or another tagger leads to a new folder of
CAMs. The CAMs of most images are the same in both: they are linked, not computed again.

A manifest names the folders that a result was made from, and the inputs of an entry say from what
content: the photograph, what was read of earlier results, and files that were learned. Whether a
result is current is decided by :meth:`Results.first_change` alone.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.engine.records import (
    ENTRIES,
    LEARNED_FROM,
    PHOTOGRAPH,
    Inputs,
    holds,
    photograph_and_result,
    read_manifest,
    result_of,
)
from pipeline.errors import first_of, shown
from pipeline.files.atomic import read_json, read_json_lines
from pipeline.files.fingerprints import fingerprint, fingerprint_cached
from pipeline.files.journal import Journal

FAILURES = "failures.jsonl"

REMOVED = "removed.jsonl"
"""The ids of images that have results, and that the data set no longer has."""


class Results:
    """The results in a stage's folder, and by its manifest those they were made from.

    It reads, each file once, and never writes. Manifests may be another person's: those that name
    each other end in no circle.

    Attributes:
        path: the folder.
        name: the name of the stage.
        key: the fingerprint of its settings.
        own_key: see :attr:`pipeline.engine.stage.PerImage.own_key`; "" where it is not known.
    """

    def __init__(
        self,
        path: Path,
        own_key: str = "",
        split: str | None = None,
        known: dict[Path, Results] | None = None,
    ):
        """Reads nothing yet.

        ``split`` is none where the manifest says it; ``known``, which others share, gets these.
        """
        self.path, self.name, self.key, self.own_key = path, path.parent.name, path.name, own_key
        if split is not None:
            self.split = split
        self._known = {} if known is None else known
        self._known[path] = self
        self._changes: dict[str, Results | None] = {}
        self._intact: dict[str, bool] = {}

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest; {} where there is none, or a damaged one."""
        return read_manifest(self.path)

    @cached_property
    def split(self) -> str:
        """The split, or "" for a stage that belongs to none."""
        return self.manifest.get("split", "")

    @property
    def command(self) -> str:
        """The word for the stage in ``stage=``."""
        return self.manifest.get("command", self.name)

    @property
    def statistics(self) -> Mapping[str, Any]:
        """What the manifest says of the results; {} where it says nothing."""
        return self.manifest.get("statistics", {})

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Image id → entry; {} where the results were removed, or are of a whole split."""
        return Journal(self.path / ENTRIES).entries

    @cached_property
    def failures(self) -> dict[str, str]:
        """Id → reason, of the skipped images."""
        lines = read_json_lines(self.path / FAILURES)
        return {line["id"]: str(line.get("reason", "unknown")) for line in lines}

    def result_of(self, image_id: str) -> str:
        """Returns the fingerprint of an image's result, for the inputs of later stages."""
        return result_of(self.entries[image_id])

    def photograph_of(self, image_id: str) -> str | None:
        """Returns the fingerprint of the photograph that a result of this own key was made from."""
        entry = self.entries.get(image_id, {})
        return entry["inputs"].get(PHOTOGRAPH) if entry.get("own_key") == self.own_key else None

    # What can be taken over

    def candidates(self, image_id: str, inputs: Inputs) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yields intact results of these inputs and this own key, with where their files are.

        Its own comes first. Siblings, folders of the stage with other settings, are read only then.
        """
        own = self.entries.get(image_id, {})
        found = own.get("own_key"), own.get("inputs")
        if found == (self.own_key, inputs) and holds(self.path, own):
            yield self.path, own
        for place, entry in self._siblings.get(image_id, ()):
            if entry["inputs"] == inputs and holds(place, entry):
                yield place, entry

    def known(self, image_id: str) -> list[Inputs]:
        """Returns the inputs of which an image's result exists, here or in a sibling."""
        own = self.entries.get(image_id, {})
        is_same = own.get("own_key") == self.own_key
        found = [(self.path, own)] * is_same + self._siblings.get(image_id, [])
        return [entry["inputs"] for place, entry in found if holds(place, entry)]

    @cached_property
    def _siblings(self) -> Mapping[str, list[tuple[Path, dict[str, Any]]]]:
        """Image id → siblings and their entries of this own key; the last name comes first."""
        found: Mapping[str, list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
        for journal in sorted(self.path.parent.glob(f"*/{ENTRIES}"), reverse=True):
            sibling, is_readable = journal.parent, os.access(journal, os.R_OK)  # or another user's
            if is_readable and not sibling.is_symlink() and sibling.name != self.key:
                for entry in Journal(journal).entries.values():
                    if entry.get("own_key") == self.own_key:
                        found[entry["id"]].append((sibling, entry))
        return found

    # What they were made from

    @cached_property
    def needs(self) -> Mapping[str, Results]:
        """What they were made from, by the names that the stage gives them."""
        root = self.path.parents[2 if self.split else 1]
        found = {}
        for need, place in self.manifest.get("made_from", {}).items():
            if len(place) == 3 and not any({"/", ".."} & {*part, part} for part in place):
                path = root.joinpath(*place)
                found[need] = self._known.get(path) or Results(path, known=self._known)
        return found

    @property
    def chain(self) -> list[Results]:
        """The results that these were made from, the earliest first, and these at the end."""
        return self._walk(lambda _: True)

    @property
    def chain_of_images(self) -> list[Results]:
        """Those of the chain that are of the same images.

        What a network was trained on says nothing of the images that it labels.
        """
        return self._walk(lambda need: need.split == self.split)

    def _walk(self, follows: Callable[[Results], bool]) -> list[Results]:
        seen, found = set(), []

        def visit(results: Results) -> None:
            if results.path not in seen:
                seen.add(results.path)
                for need in filter(follows, results.needs.values()):
                    visit(need)
                found.append(results)

        visit(self)
        return found

    def listed(self, *names: str) -> set[str]:
        """Returns the images that such files as failures.jsonl list, here and in earlier ones."""
        paths = (results.path / name for results in self.chain_of_images for name in names)
        return {line["id"] for path in paths for line in read_json_lines(path)}

    @cached_property
    def left_out(self) -> set[str]:
        """The ids of the images that the stage, or one before it, skips by now."""
        return self.listed(FAILURES)

    @cached_property
    def contents(self) -> frozenset[str]:
        """The fingerprints of the files that a network, or what was learned, consists of."""
        names = [*self.manifest.get("files", ()), self.manifest.get("checkpoint", "")]
        files = {*(self.path / name for name in names), *self.path.glob("best_*.pth")}
        return frozenset(fingerprint_cached(path) for path in files if path.is_file())

    # Whether they are current

    def is_intact(self, image_id: str) -> bool:
        """Tells whether an image's files are those that were written."""
        if image_id not in self._intact:
            self._intact[image_id] = holds(self.path, self.entries.get(image_id, {}))
        return self._intact[image_id]

    def is_current(self, image_id: str) -> bool:
        """Tells whether an image's files are those that were written, and its chain as it was."""
        return self.is_intact(image_id) and not self.first_change(image_id)

    def first_change(self, image_id: str) -> Results | None:
        """Returns the earliest results of an image's chain that were made from something else.

        Such are results of another photograph, of earlier results as they were before, and of files
        that were learned anew. Nothing is known of what results that were removed were made from.
        """
        if image_id not in self._changes:
            self._changes[image_id] = None  # in a circle
            self._changes[image_id] = self._find_change(image_id)
        return self._changes[image_id]

    def _find_change(self, image_id: str) -> Results | None:
        for need in self.needs.values():
            if found := need.first_change(image_id) if need.entries else need.change_of_split:
                return found
        if (entry := self.entries.get(image_id)) is None:
            return None
        return self if image_id in self.left_out or self.changed(entry) else None

    @cached_property
    def change_of_split(self) -> Results | None:
        """The earliest results that changed since a network was trained on them, or the network.

        What else was learned may stay as it is when images change.
        """
        trained_on = read_json(self.path / LEARNED_FROM, {str: [str]}) or {}
        for need in self.needs.values() if "checkpoint" in self.manifest else ():
            for image_id in trained_on.keys() & need.entries.keys():
                if found := need.first_change(image_id):
                    return found
                if photograph_and_result(need.entries[image_id]) != trained_on[image_id]:
                    return self
        return None

    def changed(self, entry: Mapping[str, Any]) -> list[str]:
        """Returns the names of an entry's inputs that are others now, as far as folders tell."""
        inputs, image_id = entry["inputs"], entry["id"]
        named = {name.partition(".")[0] for name in inputs}
        others = [name for name, was in inputs.items() if self._is_other(name, was, image_id)]
        needs = self.needs.items()
        return others + [n for n, need in needs if n not in named and image_id in need.entries]

    def _is_other(self, name: str, was: str, image_id: str) -> bool:
        need, _, fact = name.partition(".")
        if (earlier := self.needs.get(need)) is None:  # a photograph or a list: only a run knows
            return False
        if not earlier.entries:
            return bool(earlier.contents) and was not in earlier.contents
        if (entry := earlier.entries.get(image_id)) is None:  # removed since
            return False
        return was != (fingerprint(entry.get(fact)) if fact else result_of(entry))

    def describe_change(self, ids: Iterable[str]) -> str:
        """Returns whose files were edited, or what changed first, and the command for it; or ""."""
        ids = [*ids]
        if edited := [image_id for image_id in ids if not self.is_intact(image_id)]:
            return (
                f"{self.name} for split {self.split} are not as they were written for image"
                f" {first_of(edited)} (edited, damaged or removed): run stage={self.command} again"
            )
        changes = Counter(filter(None, map(self.first_change, ids)))
        if (first := next((each for each in self.chain if each in changes), None)) is None:
            return ""
        which = f"{first.name} for split {first.split} were" if first.split else f"{first.name} was"
        images, its = "1 image", "its"
        if changes[first] > 1:
            images, its = f"{changes[first]} images", "their"
        found = (first.entries.get(i) for i in ids if self.first_change(i) == first)
        entries = (entry for entry in found if entry is not None)  # a network has none
        made_from = first.manifest.get("made_from", {})  # name → split, stage and key
        inputs = (name for entry in entries for name in first.changed(entry))
        names = {"".join(made_from.get(n, ())[1:2]) or n.rpartition(".")[2]: "" for n in inputs}
        what = f": {' and '.join(f'{its} {name}' for name in names)} changed" if names else ""
        return (
            f"{which} made from something else than there is now ({images}{what}): run"
            f" stage={first.command} first"
        )


def describe_ways(*results: Results) -> str:
    """Returns in which ways results of one split were computed, if in several; or "".

    Those of one stage may have been made from earlier ones that were computed in another way.
    """
    images = sum((Counter(each.manifest.get("machines", {})) for each in results), Counter())
    values = Counter(trait.split("=")[0] for trait in images)
    several = [
        f"{n:,} with {shown(t)}" for t, n in images.most_common() if values[t.split("=")[0]] > 1
    ]
    if not several:
        is_made = images and results[0].manifest.get("made_from")
        behind = results[0].chain_of_images if is_made else ()
        return describe_ways(*behind) if len(behind) > len(results) else ""
    stages = dict.fromkeys(each.name for each in results if each.manifest.get("machines"))
    return (
        f"{' and '.join(stages)} for split {results[0].split} were computed in ways that differ by"
        f" rounding (images: {', '.join(several)})"
    )
