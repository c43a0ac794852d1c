"""Scans what exists of a stage and what is missing, for the run and for the dry run."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.engine.lineage import RunResults, learned_by
from pipeline.engine.results import Results
from pipeline.engine.sample import ByName, Images, Sample
from pipeline.engine.stage import Folders, Item, OfSplit, PerImage, Stage, item_of
from pipeline.engine.store import Store
from pipeline.errors import ImageError, NeedsStage, NoEntry, UserError, shown


@dataclass(frozen=True, slots=True)
class Done:
    """An intact result is there."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """A result is taken over: of a sibling, whose files are linked, or with other thresholds."""

    entry: Mapping[str, Any]  # adapted to the stage
    source: Path


@dataclass(frozen=True, slots=True)
class Compute:
    """A result is missing, and can be computed."""

    item: Item


@dataclass(frozen=True, slots=True)
class Wait:
    """Another stage has to process the image first."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The image cannot have a result."""

    reason: str
    error: NoEntry | None = None  # the given files do not name it: no failure


State = Done | Reuse | Compute | Wait | LeftOut
DONE, WAIT = Done(), Wait()


@dataclass(frozen=True)
class Scan:
    """The existing and the missing results of a stage.

    Attributes:
        stage: the stage.
        results: those that there are; none while its key is not known.
        samples: the images that it covers; those that an earlier stage skipped are not among them.
        states: image id → what is there of its result, and what is to be done.
        after: the stage that images wait for.
    """

    stage: Stage
    results: Results | None
    samples: Sequence[Sample]
    states: Mapping[str, State]
    after: str = ""

    def of(self, *kinds: type) -> dict[str, Any]:
        """Returns image id → state, of the states of some kinds."""
        return {i: state for i, state in self.states.items() if isinstance(state, kinds)}

    @property
    def ids(self) -> list[str]:
        """The ids of all images of the stage's turn, rejected files included."""
        return list(dict.fromkeys([*(sample.id for sample in self.samples), *self.of(LeftOut)]))

    @property
    def usable(self) -> list[Sample]:
        """The images that have a result, or will have one."""
        return [s for s in self.samples if not isinstance(self.states[s.id], LeftOut)]

    @property
    def pending(self) -> Mapping[str, State]:
        """The images whose result is missing, or may be another one soon."""
        return self.of(Compute, Wait)

    def after_run(self, failures: Mapping[str, str] = MappingProxyType({})) -> "Scan":
        """Returns what a run leaves: nothing is missing, and its ``failures`` are left out."""
        done = dict.fromkeys((sample.id for sample in self.samples), DONE)
        return replace(self, states=done | {i: LeftOut(why) for i, why in failures.items()})


Scans = Mapping[Stage, Scan]


def scan(
    stage: Stage,
    images: Images,
    store: Store,
    earlier: Scans,
    opened: Folders = MappingProxyType({}),
) -> Scan:
    """Returns the state of every image of a stage.

    ``earlier`` are scans of stages that run before this one; of others the disk tells. ``opened``
    are results of the stage and of its rider that a run writes to, by name. Raises a UserError if
    an earlier stage did not process all images, or files lack most of them.
    """
    if after := key_unknown_until(stage, earlier):
        samples = images.of(stage.split)
        states = dict.fromkeys((sample.id for sample in samples), WAIT)
        return Scan(stage, None, samples, states, after)
    if isinstance(stage, OfSplit):
        results, samples = stage.results(store), stage.samples()
        is_complete = stage.is_complete(results)
        states = {s.id: DONE if is_complete else Compute(Item(s, {})) for s in samples}
        return Scan(stage, results, samples, states)
    samples, waiting, after = _covered(stage, images, store, earlier)
    folders = {
        name: earlier[need].results if need in earlier else need.results(store)
        for name, need in stage.before.items()
    }
    own = opened.get(stage.name) or stage.results(store)
    learned = learned_by(stage, store) if stage.uses else {}
    # The first stage on the images names the files that are not images.
    rejected = {} if stage.before else images.rejected(stage.split)
    states: dict[str, State] = {image_id: LeftOut(why) for image_id, why in rejected.items()}
    together: dict[str, list[Item]] = defaultdict(list)
    for sample in samples:
        states[sample.id] = WAIT
        if sample.id in waiting:
            continue
        try:
            item = item_of(stage, sample, folders, learned)
            states[sample.id] = Compute(item)
            for place, entry in own.candidates(sample.id, item.inputs):
                if (adapted := stage.adapt(entry)) is not None:
                    is_there = place == own.path and adapted == entry
                    states[sample.id] = DONE if is_there else Reuse(adapted, place)
                    break
            if item.computed_with:
                together[item.computed_with].append(item)
        except ImageError as error:
            states[sample.id] = LeftOut(str(error), error if isinstance(error, NoEntry) else None)
        except (OSError, ValueError) as error:  # the latter for what cannot be a file's name
            reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            states[sample.id] = LeftOut(reason)
    _refuse_few(states, len(samples), images, stage.split)
    for batch in together.values():  # their results depend on each other
        if any(isinstance(states[item.sample.id], Compute) for item in batch):
            states |= {item.sample.id: Compute(item) for item in batch}
    if stage.rider is not None and not stage.rider.unknown_until():
        rider = opened.get(stage.rider.name) or stage.rider.results(store)
        for image_id, state in states.items():
            if isinstance(state, Compute):
                known = rider.known(image_id)
                states[image_id] = Compute(replace(state.item, known_to_rider=known))
    return Scan(stage, own, samples, states, after)


def _refuse_few(states: Mapping[str, State], wanted: int, images: Images, split: str) -> None:
    """Raises a UserError where files have an entry of fewer than half of the ``wanted`` images."""
    absent = {i: s.error for i, s in states.items() if isinstance(s, LeftOut) and s.error}
    if 2 * len(absent) > wanted:
        image_id, error = next(iter(absent.items()))
        known = ByName.fromkeys(images.known_ids(split))
        others = [f", and no image is called {shown(i)}" for i in error.entries if i not in known]
        listed = ", or list the images that have an entry in dataset.image_list"
        raise UserError(
            f"{wanted - len(absent)} of {wanted} images of split {split} have an entry, fewer than"
            f" half: image {shown(image_id)} {error}{''.join(others[:1])}: correct the names"
            f"{'' if split in images.further else listed}"
        )


def key_unknown_until(stage: Stage, earlier: Scans) -> str:
    """Returns what has to happen before a stage's key is known; "" where it is known."""
    for need in stage.needs.values():
        if (found := earlier.get(need)) is None:
            if after := key_unknown_until(need, earlier):
                return after
        elif found.results is None:
            return found.after
        elif isinstance(stage, OfSplit) and found.of(Compute, Wait, Reuse):
            return need.name
    return stage.unknown_until()


def _covered(
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
            samples, pending = found.usable, found.pending
            waiting, after = waiting.union(pending), need.name if pending else after
    for use in stage.uses.values():
        if (found := earlier.get(use)) is None:
            use.refuse_missing(use.results(store), stage)
        elif found.pending:
            waiting, after = frozenset(sample.id for sample in samples), use.name
    return samples, waiting, after


def available(stage: PerImage, images: Images, store: Store) -> list[Sample]:
    """Returns the images that have an intact result of a stage, for a stage that needs it.

    Those that the stage, or one before it, skipped are not among them. Raises a UserError if the
    stage did not run, or not on all images as they are now.
    """
    results, samples = RunResults(stage, store, images), images.of(stage.split)
    left_out, name, split = results.left_out, stage.name, stage.split
    expected = [s for s in samples if s.id not in left_out]
    finished = [s for s in expected if s.id in results.entries]
    if change := results.describe_change(sample.id for sample in finished):
        raise NeedsStage(change, stage.command)
    wrong = f"no {name} for split {split}" if expected and not finished else ""
    if finished and (number := len(expected) - len(finished)):
        wrong = f"{name} for split {split} are incomplete ({number} of {len(samples)} missing)"
    if wrong:
        raise NeedsStage(f"{wrong}: run stage={stage.command} first", stage.command)
    return finished
