"""Computes what a scan finds missing, one stage after the other."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from pipeline.engine.alongside import Alongside
from pipeline.engine.progress import course, track
from pipeline.engine.records import Counterparts
from pipeline.engine.results import FAILURES, describe_ways
from pipeline.engine.sample import Images
from pipeline.engine.scan import Compute, LeftOut, Reuse, Scan, key_unknown_until, scan
from pipeline.engine.stage import Folders, OfSplit, PerImage, Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError, refusing_exit, shown


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage for a split."""

    stage: str  # its name
    split: str  # the split, or "" for a step that has none
    images: int  # how many images it covers
    computed: int  # how many of them were computed now
    left_out: Mapping[str, str]  # id → reason, of those that were skipped
    path: Path  # where the result lies
    reused: int = 0  # how many were taken over from results of other settings
    note: str = ""  # a sentence without its full stop on what is remarkable, or ""
    absent: Collection[str] = ()  # the ids of those skipped by a NoEntry, which are no failures


def allowed_failures(wanted: float | None, images: int) -> float:
    """Returns how many of some images may be skipped before a run counts as failed.

    ``wanted`` is ``runtime.max_failures``: a number, a share below 1, or none for 10 images or 1%,
    whichever is more, but not all.
    """
    if wanted is None:
        return min(max(10, 0.01 * images), max(0, images - 1))
    return wanted * images if 0 < wanted < 1 else wanted


@dataclass
class Run:
    """A run of stages; a context manager, which ends the workers."""

    images: Images
    store: Store  # the output directory
    executor: Executor  # chooses who computes
    max_failures: float | None = None  # see :func:`allowed_failures`
    files: Sequence[str] = ()  # the names of further files that it writes in the output directory
    writes: bool = True  # whether this process writes; of several that train together, one does
    counterparts: Callable[[Stage], Counterparts] = lambda _: {}  # what the run is on each split
    _scans: dict[Stage, Scan] = field(default_factory=dict)
    _from_riding: Counter[Stage] = field(default_factory=Counter)
    _asked: Sequence[Stage] = ()

    def __enter__(self) -> "Run":
        if self.writes:
            self.store.begin(self.files)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        course.update(stage=0, of=0)
        self.executor.close(at_once=kind is not None)
        if self.writes and kind is None:
            self.store.sweep_up()

    def compute(self, stages: Iterable[Stage]) -> Iterator[Outcome]:
        """Runs stages, of which those of one command and round are together; yields what each did.

        Raises a UserError for a missing input, and for a stage that skipped too many images, after
        it has processed all others, on all splits.
        """
        self._asked = stages = list(stages)
        for _, group in groupby(stages, lambda stage: (stage.round, stage.command)):
            outcomes, course["stage"] = [], course["stage"] + 1
            for stage in group:
                compute = self._run_split if isinstance(stage, OfSplit) else self._run_per_image
                with refusing_exit(f"stage={stage.command}"):  # what learns, and workers
                    outcomes.append(compute(stage))
                yield outcomes[-1]
            self.refuse_failures(outcomes)

    def refuse_failures(self, outcomes: Iterable[Outcome]) -> None:
        """Ends the run, by a UserError, if too many images were skipped."""
        for outcome in outcomes:
            failed = {i: r for i, r in outcome.left_out.items() if i not in outcome.absent}
            images = outcome.images - len(outcome.absent)
            if len(failed) > allowed_failures(self.max_failures, images):
                first, reason = next(iter(failed.items()))
                raise UserError(
                    f"{len(failed)} of {images} images of split {outcome.split} were left out of"
                    f" {outcome.stage}, more than runtime.max_failures allows:"
                    f" {outcome.path / FAILURES} has the reasons, such as {shown(first)}: {reason}"
                )

    def _run_split(self, stage: OfSplit) -> Outcome:
        before = scan(stage, self.images, self.store, self._scans)
        writer, ids = stage.writer(self.store), dict.fromkeys(before.ids)
        results = writer.results
        with ExitStack() as lock:
            if self.writes:
                lock.enter_context(writer)
            broken = results.failures if stage.is_complete(results) else stage.broken()
            results.failures = {i: broken[i] for i in broken if i in ids}
            if self.writes:
                writer.write_failures()
            outcome = Outcome(stage.name, stage.where, len(ids), 0, results.failures, writer.path)
            self.refuse_failures([outcome])
            computed = stage.run(writer)
        self._scans[stage] = before.after_run()
        note = stage.remark(results, ids if computed else ())
        return replace(outcome, computed=computed, note=note)

    def _run_per_image(self, stage: PerImage) -> Outcome:
        self.store.refuse_equal_names(sample.id for sample in self.images.of(stage.split))
        split, failures = stage.split, {}
        with ExitStack() as locks:
            # Lock its folder, and its rider's. Its own comes last, so that an image with an entry
            # there is complete.
            made = [each for each in (stage.rider, stage) if each is not None]
            writers = {s.name: locks.enter_context(s.writer(self.store)) for s in made}
            opened = {name: writer.results for name, writer in writers.items()}
            writer, results = writers[stage.name], opened[stage.name]

            # Drop the results of images that an earlier stage skipped, and take over those that
            # came with another stage's pass, or that a folder of other settings has.
            before = scan(stage, self.images, self.store, self._scans, opened)
            asked = {sample.id for sample in self.images.of(split)} | {*self.images.rejected(split)}
            for image_id in asked.difference(sample.id for sample in before.samples):
                writer.drop(image_id)
            writer.computed = self._from_riding.pop(stage, 0)
            for state in before.of(Reuse).values():
                writer.reuse(dict(state.entry), state.source)

            # Compute the others, and alongside them a stage that reads these results.
            if missing := [state.item for state in before.of(Compute).values()]:
                for each in writers.values():
                    each.begin(len(before.ids), aside=each is not writer)
                beside = self._go_alongside(made, opened, locks)
                names = stage.name if beside is None else f"{stage.name} and {beside.stage.name}"
                read = {name: need.results(self.store).path for name, need in stage.needs.items()}
                with track(f"{names} {split}", len(missing)) as advance:
                    for sample, reason in self.executor.compute(stage, read, writers, missing):
                        if reason is not None:
                            failures[sample.id] = reason
                        if beside is not None:
                            beside.hand_on(sample)
                        advance(note=f"{len(failures)} left out" if failures else "")
                if beside is not None:  # it is finished when its own turn comes, as the rider is
                    self._from_riding[beside.stage] += beside.finish()
            if stage.rider is not None:
                self._from_riding[stage.rider] = writers[stage.rider.name].computed

            # Record what was skipped, and complete the folder.
            skipped = before.of(LeftOut)
            failures = {**{i: each.reason for i, each in skipped.items()}, **failures}
            for image_id, reason in failures.items():
                writer.fail(image_id, reason)
            done = [sample for sample in before.samples if sample.id in results.entries]
            summary, known = stage.summary(results, done), self.images.known_ids(split)
            about = stage.statistics(writer, done), self.counterparts(stage)
            writer.finish(before.ids, summary, known, *about)

        # Tell the stages after it, and the user.
        self._scans[stage] = before.after_run(failures)
        ids = dict.fromkeys(before.ids)
        absent = {image_id for image_id, state in skipped.items() if state.error}
        left_out = {i: reason for i, reason in sorted(results.failures.items()) if i in ids}
        computed = min(writer.computed, len(ids) - len(left_out))
        notes = stage.remark(results, ids), describe_ways(stage.results(self.store))
        facts = computed, left_out, writer.path, writer.reused, "; ".join(filter(None, notes))
        return Outcome(stage.name, stage.where, len(ids), *facts, absent=absent)

    def _go_alongside(
        self, made: Sequence[PerImage], opened: Folders, locks: ExitStack
    ) -> Alongside | None:
        """Starts a stage that was asked for, and reads results that are being ``made``."""
        for other in self._asked:
            if other in made or not isinstance(other, PerImage) or not other.needs:
                continue
            is_fed = all(need in made for need in other.needs.values())
            if not is_fed or key_unknown_until(other, self._scans):
                continue
            before = {name: opened[need.name] for name, need in other.before.items()}
            writer, images = other.writer(self.store), len(self.images.of(other.split))
            read = {name: need.results(self.store).path for name, need in other.needs.items()}
            beside = self.executor.go_alongside(other, read, before, writer, made[-1], images)
            if beside is not None:
                locks.enter_context(writer)
                return beside
        return None
