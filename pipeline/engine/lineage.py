"""What results are made from, and whether their whole chain is still as it was then.

A manifest names the folders that a result was made from. The entry of an image says from what
content: its ``input`` begins with the fingerprint of the photograph and goes on with those of what
was read of earlier results; its ``recipe`` goes on with those of files that were learned. Whether a
result is current is decided here alone, by :meth:`Result.first_change`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.engine.folder import ENTRIES, FAILURES, StageFolder, result_key
from pipeline.engine.result_folder import holds, read_manifest
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import OfSplit, PerImage, Stage
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError, shown
from pipeline.files.atomic import read_json, read_json_lines
from pipeline.files.fingerprints import (
    fingerprint,
    fingerprint_file,
    fingerprint_image,
    first_key,
    join_keys,
)
from pipeline.files.journal import Journal

LEARNED_FROM = "learned_from.json"
"""In the folder of a training: image id → :func:`photograph_and_result` of its mask."""


def open_folder(stage: Stage, store: Store) -> StageFolder:
    """Returns a stage's folder as it is now.

    Its recipe holds the contents of the files that the stage loads, such as a checkpoint.
    """
    recipe = ""
    if isinstance(stage, PerImage):
        files = stage.loaded({n: open_folder(use, store).path for n, use in stage.uses.items()})
        recipe = join_keys(stage.recipe, *map(fingerprint_file, files))
    own = stage.place, stage.name, stage.settings, recipe
    return store.folder(*own, facts=stage.facts)


def photograph_and_result(entry: Mapping[str, Any]) -> str:
    """Returns the fingerprints of an image's photograph and of its result, by its entry."""
    return join_keys(first_key(entry["input"]), result_key(entry))


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
        return Journal(self.path / ENTRIES).entries

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
        is_current = image_id not in self.left_out and self._is_as_made(image_id, entry)
        return None if is_current else self

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
        images = "1 image" if changes[first] == 1 else f"{changes[first]} images"
        return (
            f"{which} made from something else than there is now ({images}): run"
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
        trained_on = read_json(self.path / LEARNED_FROM, {str: str}) or {}
        for need in self.needs.values() if trained_on else ():
            for image_id in trained_on.keys() & need.entries.keys():
                if found := need.first_change(image_id):
                    return found
                if photograph_and_result(need.entries[image_id]) != trained_on[image_id]:
                    return self
        return None

    def _is_as_made(self, image_id: str, entry: Mapping[str, Any]) -> bool:
        _, *read = entry["input"].split("-")
        _, *learned = entry.get("recipe", "").split("-")
        if self._learned_contents and not self._learned_contents.issuperset(learned):
            return False
        earlier = (need.entries.get(image_id) for need in self.needs.values())
        # Inputs name an earlier result by all of it, or by one fact of its entry.
        names = ({result_key(e), *map(fingerprint, e.values())} for e in earlier if e is not None)
        return not any(each.isdisjoint(read) for each in names)

    @cached_property
    def _learned_contents(self) -> frozenset[str]:
        """The fingerprints of the files that a network, or what was learned, consists of."""
        files: set[Path] = set()
        for need in self.needs.values():
            names = [*need.manifest.get("files", ()), need.manifest.get("checkpoint", "")]
            files |= {*(need.path / name for name in names), *need.path.glob("best_*.pth")}
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

    def _is_as_made(self, image_id: str, entry: Mapping[str, Any]) -> bool:
        if entry.get("recipe") != self.folder.recipe:
            return False
        sample, folders = self._samples[image_id], {n: r.folder for n, r in self.needs.items()}
        try:
            photograph = fingerprint_image(sample.image)
            if any(image_id not in folder.entries for folder in folders.values()):
                return photograph == first_key(entry["input"])
            return entry["input"] == self.stage.find_item(sample, folders).input
        except ImageError:  # such as a line that its list no longer has
            return False
        except (UserError, OSError):  # such as a list that is gone
            return True
