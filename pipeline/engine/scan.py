"""Scans what exists of a stage and what is missing, for the run and for the dry run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.engine.folder import StageFolder
from pipeline.engine.lineage import StageResult, learned_by, open_folder
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import Folders, Item, OfSplit, PerImage, Stage, item_of
from pipeline.engine.store import Store
from pipeline.errors import ImageError, NeedsStage, NoEntry, UserError, shown


@dataclass(frozen=True)
class Scan:
    """The existing and the missing results of a stage.

    Attributes:
        stage: the stage.
        folder: its folder; none while its key is not known.
        samples: the images that it covers; those that an earlier stage skipped are not among them.
        missing: what has to be computed, and can be now.
        reusable: what need not be computed: entries, adapted to the stage, with a sibling's folder.
        waiting: the ids of images that another stage has to process first.
        left_out: id → reason, of images that cannot have a result.
        after: the stage that ``waiting`` waits for.
        absent: the ids of those that are left out by a NoEntry.
    """

    stage: Stage
    folder: StageFolder | None
    samples: Sequence[Sample]
    missing: Sequence[Item] = ()
    reusable: Sequence[tuple[Mapping[str, Any], Path]] = ()
    waiting: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    absent: Collection[str] = ()

    @property
    def ids(self) -> list[str]:
        """The ids of all images of the stage's turn, rejected files included."""
        return list(dict.fromkeys([*(sample.id for sample in self.samples), *self.left_out]))

    @property
    def usable(self) -> list[Sample]:
        """The images that have a result, or will have one."""
        return [s for s in self.samples if s.id not in self.left_out]

    @property
    def pending(self) -> set[str]:
        """The ids of images whose result is missing, or may be another one soon."""
        return self.waiting | {item.sample.id for item in self.missing}


Scans = Mapping[Stage, Scan]


def scan(
    stage: Stage,
    images: Images,
    store: Store,
    earlier: Scans,
    opened: Folders = MappingProxyType({}),
) -> Scan:
    """Returns what exists of a stage and what is missing.

    ``earlier`` are scans of stages that run before this one; of others the disk tells. ``opened``
    are folders of the stage and of its rider that are open already, by name. Raises a UserError if
    an earlier stage did not process all images, or files lack most of them.
    """
    if after := key_unknown_until(stage, earlier):
        samples = images.of(stage.split)
        return Scan(stage, None, samples, waiting=frozenset(s.id for s in samples), after=after)
    if isinstance(stage, OfSplit):
        folder, samples = open_folder(stage, store), stage.samples()
        missing = [] if stage.is_complete(folder) else [Item(s, {}) for s in samples]
        return Scan(stage, folder, samples, missing)
    samples, waiting, after = _inputs(stage, images, store, earlier)
    folders = {
        name: earlier[need].folder if need in earlier else open_folder(need, store)
        for name, need in stage.before.items()
    }
    folder = opened.get(stage.name) or open_folder(stage, store)
    learned = learned_by(stage, store) if stage.uses else {}
    rider = None
    if stage.rider is not None and not stage.rider.unknown_until():
        rider = opened.get(stage.rider.name) or open_folder(stage.rider, store)
    items: dict[str, Item] = {}
    missing: set[str] = set()
    reusable: dict[str, tuple[Mapping[str, Any], Path]] = {}
    # The first stage on the images names the files that are not images.
    left_out = {} if stage.before else images.rejected(stage.split)
    absent: dict[str, NoEntry] = {}
    for sample in samples:
        if sample.id in waiting:
            continue
        try:
            item = items[sample.id] = item_of(stage, sample, folders, learned)
            for place, entry in folder.candidates(sample.id, item.inputs):
                if (adapted := stage.adapt(entry)) is not None:
                    if place != folder.path or adapted != entry:  # thresholds have changed
                        reusable[sample.id] = adapted, place
                    break
            else:
                missing.add(sample.id)
        except ImageError as error:
            left_out[sample.id] = str(error)
            if isinstance(error, NoEntry):
                absent[sample.id] = error
        except (OSError, ValueError) as error:  # the latter for what cannot be a file's name
            left_out[sample.id] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    _refuse_few(absent, len(samples), images, stage.split)
    if together := {items[image_id].computed_with for image_id in missing} - {""}:
        missing |= {image_id for image_id, item in items.items() if item.computed_with in together}
    computed = [item for image_id, item in items.items() if image_id in missing]
    if rider is not None:
        computed = [replace(item, known_to_rider=rider.known(item.sample.id)) for item in computed]
    reused = [found for image_id, found in reusable.items() if image_id not in missing]
    return Scan(stage, folder, samples, computed, reused, waiting, left_out, after, {*absent})


def _refuse_few(absent: Mapping[str, NoEntry], wanted: int, images: Images, split: str) -> None:
    """Raises a UserError where files have an entry of fewer than half of the ``wanted`` images."""
    if 2 * len(absent) > wanted:
        image_id, error = next(iter(absent.items()))
        known = images.known_ids(split)
        others = [f", and no image is called {shown(i)}" for i in error.entries if i not in known]
        raise UserError(
            f"{wanted - len(absent)} of {wanted} images of split {split} have an entry, fewer than"
            f" half: image {shown(image_id)} {error}{''.join(others[:1])}: correct the names, or"
            " list the images that have an entry in dataset.image_list"
        )


def key_unknown_until(stage: Stage, earlier: Scans) -> str:
    """Returns what has to happen before a stage's key is known; "" where it is known."""
    for need in stage.needs.values():
        found = earlier.get(need)
        if found is None:
            if after := key_unknown_until(need, earlier):
                return after
        elif found.folder is None:
            return found.after
        elif isinstance(stage, OfSplit) and (found.pending or found.reusable):
            return need.name
    return stage.unknown_until()


def _inputs(
    stage: PerImage, images: Images, store: Store, earlier: Scans
) -> tuple[list[Sample], frozenset[str], str]:
    """Returns the images that a stage covers, and which of them wait for what other stage."""
    samples = images.of(stage.split)
    waiting = frozenset(sample.id for sample in samples if not sample.is_there)
    after = "drawing" if waiting else ""
    for need in stage.before.values():
        if (found := earlier.get(need)) is None:
            samples = available(need, images, store)
        else:
            samples = found.usable
            waiting, after = waiting | found.pending, need.name if found.pending else after
    for use in stage.uses.values():
        if (found := earlier.get(use)) is None:
            use.refuse_missing(open_folder(use, store), stage)
        elif found.pending:
            waiting, after = frozenset(sample.id for sample in samples), use.name
    return samples, waiting, after


def available(stage: PerImage, images: Images, store: Store) -> list[Sample]:
    """Returns the images that have an intact result of a stage, for a stage that needs it.

    Those that the stage, or one before it, skipped are not among them. Raises a UserError if the
    stage did not run, or not on all images as they are now.
    """
    result, samples = StageResult(stage, store, images), images.of(stage.split)
    folder, left_out, name, split = result.folder, result.left_out, stage.name, stage.split
    expected = [s for s in samples if s.id not in left_out]
    finished = [s for s in expected if s.id in folder.entries]
    if change := result.describe_change(sample.id for sample in finished):
        raise NeedsStage(change, stage.command)
    wrong = f"no {name} for split {split}" if expected and not finished else ""
    if finished and (number := len(expected) - len(finished)):
        wrong = f"{name} for split {split} are incomplete ({number} of {len(samples)} missing)"
    if wrong:
        raise NeedsStage(f"{wrong}: run stage={stage.command} first", stage.command)
    return finished
