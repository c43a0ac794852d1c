"""Computes what a scan finds missing, one stage after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby

from pipeline.engine.folder import FAILURES, StageFolder
from pipeline.engine.progress import track
from pipeline.engine.review import Outcome, Review, allowed_failures
from pipeline.engine.sample import Images
from pipeline.engine.scan import Scan, open_folder, scan
from pipeline.engine.stage import Stage, Whole
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError


@dataclass
class Run:
    """A run of stages.

    Attributes:
        steps: stages and reviews in their order; those of one command and round are together.
        images: the images.
        store: the output directory.
        executor: chooses who computes.
        max_failures: see :func:`pipeline.engine.review.allowed_failures`.
        files: the names of files that steps of such a run write in the output directory.
        writes: whether this process writes; of several that train together, one does.
    """

    steps: Sequence[Stage | Review]
    images: Images
    store: Store
    executor: Executor
    max_failures: float | None = None
    files: Sequence[str] = ()
    writes: bool = True
    _scans: dict[str, Scan] = field(default_factory=dict)
    _served: dict[str, int] = field(default_factory=dict)

    def __call__(self) -> Iterator[Outcome]:
        """Runs all steps and yields what each did.

        Raises:
            UserError: a missing input, or a stage that skipped too many images. That stage has
                processed all others.
        """
        if self.writes:
            self.store.begin(self.files)
        try:
            for _, group in groupby(self.steps, lambda step: (step.round, step.command)):
                outcomes = []
                for step in group:
                    for outcome in self._outcomes(step):
                        outcomes.append(outcome)
                        yield outcome
                for outcome in outcomes:
                    self._refuse_failures(outcome)
        except BaseException:
            self.executor.close(at_once=True)
            raise
        self.executor.close()
        if self.writes:
            self.store.sweep_up()

    def _outcomes(self, step: Stage | Review) -> Iterator[Outcome]:
        if isinstance(step, Review):
            yield from step.review(self.store)
        elif step.applies():
            yield self._whole(step) if isinstance(step, Whole) else self._per_image(step)

    def _whole(self, stage: Whole) -> Outcome:
        before = scan(stage, self.images, self.store, self._scans)
        with ExitStack() as lock:
            if self.writes:
                lock.enter_context(before.folder)
            computed = stage.run(before.folder)
            if self.writes and stage.accompanies:
                before.folder.accompany(stage.accompanies.key)
        self._scans[stage.label] = replace(before, missing=())
        ids = [sample.id for sample in before.samples]
        note = stage.remark(before.folder, ids if computed else ())
        return Outcome(
            stage.shown, stage.where, len(ids), computed, {}, before.folder.path, note=note
        )

    def _per_image(self, stage: Stage) -> Outcome:
        self.store.refuse_equal_names(sample.id for sample in self.images.of(stage.split))
        with ExitStack() as locks:
            opened = {
                each.name: locks.enter_context(open_folder(each, self.store))
                for each in stage.outputs
            }
            before = scan(stage, self.images, self.store, self._scans, opened)
            folder = before.folder
            for each in (stage, *stage.parts):
                for image_id in before.left_out_before(self.images):
                    opened[each.name].drop(image_id)
            folder.computed = folder.shared = self._served.pop(stage.label, 0)
            for _, source, entry in before.reusable:
                folder.reuse(stage.adapt(entry), source)
            failures = {**before.left_out, **self._compute(before, list(opened.values()))}
            for each in (stage, *stage.parts):
                self._finish(each, opened[each.name], before, failures)
            for each in stage.serves:  # these are finished when their own turn comes
                self._served[each.label] = opened[each.name].computed
        self._scans[stage.label] = replace(before, missing=(), reusable=(), left_out=failures)
        ids = dict.fromkeys(before.ids)
        left_out = {i: reason for i, reason in sorted(folder.failures.items()) if i in ids}
        computed = min(folder.computed, len(ids) - len(left_out))
        facts = computed, left_out, folder.path, folder.reused, stage.remark(folder, ids)
        return Outcome(stage.name, stage.where, len(ids), *facts)

    def _compute(self, before: Scan, folders: Sequence[StageFolder]) -> dict[str, str]:
        """Computes what is missing; returns id → reason, of the images that were skipped."""
        failures: dict[str, str] = {}
        if not before.missing:
            return failures
        stage = before.stage
        for folder in folders:
            folder.begin(len(before.ids))
        inputs = {name: open_folder(need, self.store).path for name, need in stage.needs.items()}
        with track(f"{stage.name} {stage.split}", len(before.missing)) as advance:
            for image_id, reason in self.executor.compute(stage, inputs, folders, before.missing):
                if reason is not None:
                    failures[image_id] = reason
                advance(note=f"{len(failures)} left out" if failures else "")
        return failures

    def _finish(
        self, stage: Stage, folder: StageFolder, before: Scan, failures: Mapping[str, str]
    ) -> None:
        for image_id, reason in failures.items():
            folder.fail(image_id, reason)
        ids, entries = before.ids, folder.entries
        done = [image_id for image_id in ids if image_id in entries]
        folder.finish(ids, stage.summary(folder, done), self.images.known_ids(stage.split))
        if stage.accompanies:
            folder.accompany(stage.accompanies.key)

    def _refuse_failures(self, outcome: Outcome) -> None:
        """Ends a run in which too many images were skipped; all others were processed."""
        left_out = len(outcome.left_out)
        if left_out > allowed_failures(self.max_failures, outcome.images):
            raise UserError(
                f"{left_out} of {outcome.images} images of split {outcome.split} were left"
                f" out of {outcome.stage}, more than runtime.max_failures allows:"
                f" {outcome.path / FAILURES} says why"
            )
