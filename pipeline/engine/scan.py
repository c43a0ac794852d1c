"""What exists of a stage and what is missing: the one truth for the run and the dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.folder import StageFolder
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import Item, Stage, Whole
from pipeline.engine.store import Store
from pipeline.errors import ImageError, UserError
from pipeline.files.fingerprints import fingerprint_file, fingerprint_image, join_keys


@dataclass(frozen=True)
class Scan:
    """What exists of a stage, and what is missing.

    Attributes:
        stage: the stage.
        folder: its folder; none while its key is not known.
        samples: the images that it covers; those that an earlier stage skipped are not among them.
        missing: what has to be computed, and can be now.
        reusable: what need not be computed: items with a sibling's folder and entry.
        waiting: the ids of images that another stage has to process first.
        left_out: id → reason, of images that cannot have a result.
        after: the stage that ``waiting`` waits for.
    """

    stage: Stage
    folder: StageFolder | None
    samples: Sequence[Sample]
    missing: Sequence[Item] = ()
    reusable: Sequence[tuple[Item, Path, Mapping[str, Any]]] = ()
    waiting: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)
    after: str = ""

    @property
    def ids(self) -> list[str]:
        """The ids of all images of the stage's turn, rejected files included."""
        return list(dict.fromkeys([*(sample.id for sample in self.samples), *self.left_out]))

    def left_out_before(self, images: Images) -> set[str]:
        """Returns the ids of those images of the run that an earlier stage skipped."""
        split = self.stage.split
        asked = {sample.id for sample in images.of(split)} | images.rejected(split).keys()
        return asked - {sample.id for sample in self.samples}

    @property
    def usable(self) -> list[Sample]:
        """The images that have a result, or will have one."""
        return [s for s in self.samples if s.id not in self.left_out]

    @property
    def pending(self) -> set[str]:
        """The ids of images whose result is missing, or may be another one soon."""
        return self.waiting | {item.sample.id for item in self.missing}


Scans = Mapping[str, Scan]  # by the labels of their stages


def open_folder(stage: Stage, store: Store) -> StageFolder:
    """Returns a stage's folder as it is now.

    What a trained network computes is known by the content of its file as well.
    """
    wholes = {n: need for n, need in stage.needs.items() if isinstance(need, Whole)}
    files = stage.loaded({n: open_folder(need, store).path for n, need in wholes.items()})
    recipe = join_keys(stage.recipe, *map(fingerprint_file, files))
    options = {"becomes_latest": stage.accompanies is None, "recipe": recipe}
    return store.folder(stage.split, stage.name, stage.settings, **options)


def scan(
    stage: Stage,
    images: Images,
    store: Store,
    earlier: Scans,
    opened: Mapping[str, StageFolder] = {},
) -> Scan:
    """Returns what exists of a stage and what is missing.

    Args:
        earlier: scans of stages that run before this one; of others the disk tells.
        opened: folders of ``stage.outputs`` that are open already, by name.

    Raises:
        UserError: a stage that it needs is not among ``earlier``, and did not process all images.
    """
    if after := key_unknown_until(stage, earlier):
        samples = images.of(stage.of_split if isinstance(stage, Whole) else stage.split)
        waiting = frozenset(s.id for s in samples)
        return Scan(stage, None, samples, waiting=waiting, after=after)
    if isinstance(stage, Whole):
        folder, samples = open_folder(stage, store), stage.samples()
        missing = [] if stage.is_complete(folder) else [Item(s, "") for s in samples]
        return Scan(stage, folder, samples, missing)
    samples, waiting, after = _inputs(stage, images, store, earlier)
    folders = {
        name: earlier[need.label].folder if need.label in earlier else open_folder(need, store)
        for name, need in stage.needs.items()
    }
    folders |= {s.name: opened.get(s.name) or open_folder(s, store) for s in stage.outputs}
    folder, parts = folders[stage.name], stage.parts
    written = [folder, *(folders[part.name] for part in parts)]
    entries = folder.entries
    missing, reusable = [], []
    left_out = images.rejected(stage.split) if stage.is_first else {}
    for sample in samples:
        if sample.id in waiting:
            continue
        try:
            item = stage.item(sample, folders)
            is_done = all(each.is_done(sample.id, item.input) for each in written)
            if is_done and stage.covers(entries[sample.id]):
                continue
            # Entries of parts would have to be found together.
            sibling = None if parts else folder.find_reusable(sample.id, item.input)
            if sibling is not None and stage.covers(sibling[1]):
                reusable.append((item, *sibling))
            else:
                missing.append(stage.prepare(item, folders))
        except ImageError as error:
            left_out[sample.id] = str(error)
        except (OSError, ValueError) as error:  # the latter for what cannot be a file's name
            left_out[sample.id] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return Scan(stage, folder, samples, missing, reusable, waiting, left_out, after)


def key_unknown_until(stage: Stage, earlier: Scans) -> str:
    """Returns what has to happen before a stage's key is known; "" where it is known."""
    for need in stage.needs.values():
        before = earlier.get(need.label)
        if before is None:
            if after := key_unknown_until(need, earlier):
                return after
        elif before.folder is None:
            return before.after
        elif isinstance(stage, Whole) and before.pending:
            return need.shown
    return stage.unknown_until()


def _inputs(
    stage: Stage, images: Images, store: Store, earlier: Scans
) -> tuple[list[Sample], frozenset[str], str]:
    """Returns the images that a stage covers, and which of them wait for what other stage."""
    samples, waiting, after = images.of(stage.split), frozenset(), ""
    for need in stage.needs.values():
        before = earlier.get(need.label)
        if before is not None:
            if isinstance(need, Whole):
                waits = {s.id for s in samples} if before.pending else set()
            else:
                samples, waits = before.usable, before.pending
            waiting, after = waiting | waits, need.shown if waits else after
        elif isinstance(need, Whole):
            need.refuse_missing(open_folder(need, store), stage)
        else:
            samples = available(need, images, store)
    return samples, waiting, after


def is_current(
    stage: Stage, sample: Sample, folder: StageFolder, folders: Mapping[str, StageFolder]
) -> bool:
    """Tells whether an image's result was made from what there is now.

    That is its photograph and the results of earlier stages; of those that were removed, the last
    ones count.

    Args:
        stage: the stage, or the one that it is a part of.
        sample: the image.
        folder: the results.
        folders: those of ``stage.needs`` and ``stage.outputs``, by their names.
    """
    try:
        if folder.photograph_of(sample.id) != fingerprint_image(sample.image):
            return False
    except OSError:
        return folder.photograph_of(sample.id) is not None
    earlier = [name for name, need in stage.needs.items() if not isinstance(need, Whole)]
    if not earlier or any(sample.id not in folders[name].entries for name in earlier):
        return True
    try:
        return folder.entries[sample.id]["input"] == stage.item(sample, folders).input
    except (ImageError, UserError, OSError):  # such as a file that was imported, and is gone
        return True


def open_inputs(stage: Stage, store: Store) -> dict[str, StageFolder]:
    """Returns the folders of ``stage.needs`` and ``stage.outputs``, by their names."""
    found = {name: open_folder(need, store) for name, need in stage.needs.items()}
    return found | {each.name: open_folder(each, store) for each in stage.outputs}


def left_out_until(stage: Stage, store: Store) -> set[str]:
    """Returns the ids of the images that a stage, or one before it on its images, skipped."""
    left_out, pending = set(), [stage]
    while pending:
        if not isinstance(each := pending.pop(), Whole):
            left_out |= open_folder(each, store).failures.keys()
            pending += each.needs.values()
    return left_out


def available(stage: Stage, images: Images, store: Store) -> list[Sample]:
    """Returns the images that have an intact result of a stage, for a stage that needs it.

    Those that the stage, or one before it, skipped are not among them.

    Raises:
        UserError: the stage did not run, or not on all images as they are now.
    """
    folder, samples = open_folder(stage, store), images.of(stage.split)
    left_out = left_out_until(stage, store)
    expected = [s for s in samples if s.id not in left_out]
    folders = open_inputs(stage, store)
    finished = [s for s in expected if is_current(stage, s, folder, folders)]
    name, split = stage.name, stage.split
    if not finished and expected:
        raise UserError(f"no {name} for split {split}: run stage={stage.command} first")
    damaged = [s for s in finished if not folder.is_whole(s.id)]
    if len(finished) < len(expected) or damaged:
        missing = f"{len(expected) - len(finished)} of {len(samples)} missing"
        missing += f", {len(damaged)} damaged" if damaged else ""
        raise UserError(
            f"{name} for split {split} are incomplete ({missing}): run stage={stage.command} first"
        )
    return finished
