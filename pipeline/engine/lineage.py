"""What results are made from, and whether their whole chain is still as it was then.

A manifest names the folders that a result was made from. The entry of an image says from what
content: its ``inputs`` are the photograph, what was read of earlier results, and files that were
learned. Whether a result is current is decided here alone, by :meth:`Result.first_change`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.engine.entries import (
    ENTRIES,
    PHOTOGRAPH,
    Inputs,
    holds,
    photograph_and_result,
    result_of,
)
from pipeline.engine.folder import FAILURES, StageFolder
from pipeline.engine.result_folder import read_manifest
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import OfSplit, PerImage, Stage, item_of
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError, shown
from pipeline.files.atomic import read_json, read_json_lines
from pipeline.files.fingerprints import fingerprint, fingerprint_file, fingerprint_image
from pipeline.files.journal import open_journal

LEARNED_FROM = "learned_from.json"
"""In the folder of a training: image id → what :func:`photograph_and_result` says of its mask."""


def open_folder(stage: Stage, store: Store) -> StageFolder:
    """Returns a stage's folder as it is now."""
    recipe = stage.recipe if isinstance(stage, PerImage) else ""
    return store.folder(stage.place, stage.name, stage.settings, recipe, about=stage.about)


def learned_by(stage: PerImage, store: Store) -> Inputs:
    """Returns the files that a stage loads of what it uses, such as a checkpoint."""
    folders = {name: open_folder(use, store).path for name, use in stage.uses.items()}
    return {name: fingerprint_file(path) for name, path in stage.loaded(folders).items()}


class Result:
    """The results in a stage's folder, ``path``, and by its manifest those they were made from.

    Manifests may be another person's: those that name each other end in no circle.
    """

    def __init__(self, path: Path, known: dict[Path, Result] | None = None):
        """Reads nothing yet; ``known`` are results that others share, and receives this one."""
        self.path = path
        self._known = {} if known is None else known
        self._known[path] = self
        self._changes: dict[str, Result | None] = {}
        self._intact: dict[str, bool] = {}

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest; {} where there is none, or a damaged one."""
        return read_manifest(self.path)

    @property
    def split(self) -> str:
        """The split, or "" for a stage that belongs to none."""
        return self.manifest.get("split", "")

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.path.parent.name

    @property
    def command(self) -> str:
        """The word for the stage in ``stage=``."""
        return self.manifest.get("command", self.name)

    @cached_property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Image id → entry; {} where the results were removed, or are of a whole split."""
        return open_journal(self.path / ENTRIES).entries

    @cached_property
    def needs(self) -> Mapping[str, Result]:
        """What it was made from, by the names that its stage gives them."""
        root = self.path.parents[2 if self.split else 1]
        found = {}
        for need, place in self.manifest.get("made_from", {}).items():
            if len(place) == 3 and not any({"/", ".."} & {*part, part} for part in place):
                path = root.joinpath(*place)
                found[need] = self._known.get(path) or Result(path, self._known)
        return found

    @property
    def chain(self) -> list[Result]:
        """The results that these were made from, the earliest first, and these at the end."""
        return self._walk(lambda _: True)

    def _walk(self, follows: Callable[[Result], bool]) -> list[Result]:
        seen, found = set(), []

        def visit(result: Result) -> None:
            if result.path not in seen:
                seen.add(result.path)
                for need in filter(follows, result.needs.values()):
                    visit(need)
                found.append(result)

        visit(self)
        return found

    def first_change(self, image_id: str) -> Result | None:
        """Returns the earliest result of an image's chain that was made from something else.

        Such are results of another photograph, of earlier results as they were before, and of files
        that were learned anew. Nothing is known of what results that were removed were made from.
        """
        if image_id not in self._changes:
            self._changes[image_id] = None  # in a circle
            self._changes[image_id] = self._find_change(image_id)
        return self._changes[image_id]

    def _find_change(self, image_id: str) -> Result | None:
        for need in self.needs.values():
            if found := need.first_change(image_id) if need.entries else need.change_of_split:
                return found
        if (entry := self.entries.get(image_id)) is None:
            return None
        return self if image_id in self.left_out or self.changed(entry) else None

    def is_current(self, image_id: str) -> bool:
        """Tells whether an image's files are those that were written, and its chain as it was."""
        return self.is_intact(image_id) and not self.first_change(image_id)

    def is_intact(self, image_id: str) -> bool:
        """Tells whether an image's files are those that were written."""
        if image_id not in self._intact:
            self._intact[image_id] = holds(self.path, self.entries.get(image_id, {}))
        return self._intact[image_id]

    def describe_change(self, ids: Iterable[str]) -> str:
        """Returns whose files were edited, or what changed first, and the command for it; or ""."""
        ids = [*ids]
        if edited := [image_id for image_id in ids if not self.is_intact(image_id)]:
            more = f" and {len(edited) - 1} more" if len(edited) > 1 else ""
            return (
                f"{self.name} for split {self.split} are not as they were written for image"
                f" {shown(edited[0])}{more} (edited, damaged or removed): run"
                f" stage={self.command} again"
            )
        changes = Counter(filter(None, map(self.first_change, ids)))
        if (first := next((result for result in self.chain if result in changes), None)) is None:
            return ""
        which = f"{first.name} for split {first.split} were" if first.split else f"{first.name} was"
        images, its = "1 image", "its"
        if changes[first] > 1:
            images, its = f"{changes[first]} images", "their"
        found = (first.entries.get(i) for i in ids if self.first_change(i) == first)
        entries = (entry for entry in found if entry is not None)  # a network has none
        names = {name.rpartition(".")[2]: "" for entry in entries for name in first.changed(entry)}
        what = f": {' and '.join(f'{its} {name}' for name in names)} changed" if names else ""
        return (
            f"{which} made from something else than there is now ({images}{what}): run"
            f" stage={first.command} first"
        )

    def listed(self, *names: str) -> set[str]:
        """Returns the images that files list, such as failures.jsonl, here and in earlier results.

        What a network was trained on says nothing of the images that it labels.
        """
        results = self._walk(lambda need: need.split == self.split)
        paths = (result.path / name for result in results for name in names)
        return {line["id"] for path in paths for line in read_json_lines(path)}

    @cached_property
    def left_out(self) -> set[str]:
        """The ids of the images that the stage, or one before it, skips by now."""
        return self.listed(FAILURES)

    @cached_property
    def change_of_split(self) -> Result | None:
        """The earliest result that changed since a network was trained on it, or the network."""
        trained_on = read_json(self.path / LEARNED_FROM, {str: [str]}) or {}
        for need in self.needs.values() if trained_on else ():
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

    @cached_property
    def contents(self) -> frozenset[str]:
        """The fingerprints of the files that a network, or what was learned, consists of."""
        names = [*self.manifest.get("files", ()), self.manifest.get("checkpoint", "")]
        files = {*(self.path / name for name in names), *self.path.glob("best_*.pth")}
        return frozenset(fingerprint_file(path) for path in files if path.is_file())


class StageResult(Result):
    """The results of a stage of the run, whose settings say more than the manifest does.

    They also say what of other programs' files belongs to an image, such as its line in a list.
    """

    def __init__(
        self,
        stage: Stage,
        store: Store,
        images: Images,
        known: dict[Stage, StageResult] | None = None,
    ):
        """Opens the folder; ``known`` are results that others share, and receives this one."""
        self.stage = stage
        self.folder = open_folder(stage, store)
        self._store, self._images = store, images
        self._stages = {} if known is None else known
        self._stages[stage] = self
        super().__init__(self.folder.path)

    @property
    def split(self) -> str:
        """The split of the stage."""
        return self.stage.split

    @cached_property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Image id → entry; {} for a stage whose result is of a whole split."""
        return self.folder.entries if isinstance(self.stage, PerImage) else {}

    @cached_property
    def needs(self) -> Mapping[str, Result]:
        """Those before it; the key and the recipe tell of what it uses besides."""
        before = {} if isinstance(self.stage, OfSplit) else self.stage.before
        for need in before.values():
            if need not in self._stages:
                StageResult(need, self._store, self._images, self._stages)
        return {name: self._stages[need] for name, need in before.items()}

    @cached_property
    def _samples(self) -> Mapping[str, Sample]:
        return {sample.id: sample for sample in self._images.of(self.split)}

    @cached_property
    def _learned(self) -> Inputs:
        return learned_by(self.stage, self._store)

    def changed(self, entry: Mapping[str, Any]) -> list[str]:
        """Returns the names of what an entry was made from and that is another now."""
        if entry.get("recipe") != self.folder.recipe:
            return ["settings"]
        was, now, names = entry["inputs"], {**self._learned}, {*self._learned}
        sample = self._samples.get(entry["id"])
        folders = {name: result.folder for name, result in self.needs.items()}
        try:
            if sample is not None and all(entry["id"] in each.entries for each in folders.values()):
                now = item_of(self.stage, sample, folders, self._learned).inputs
                names = now.keys() | was.keys()
            elif sample is not None:  # of what was removed, nothing is known
                now[PHOTOGRAPH] = fingerprint_image(sample.image)
                names.add(PHOTOGRAPH)
        except ImageError:  # such as a line that its list no longer has
            return ["entry"]
        except (UserError, OSError):  # such as a list that is gone
            return []
        return sorted(name for name in names if now.get(name) != was.get(name))
