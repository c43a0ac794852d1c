"""The stage ``evaluate``: measures the existing results against the ground truth."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.folder import FAILURES, StageFolder
from pipeline.engine.kinds import MASKS, NETWORK
from pipeline.engine.run import Outcome
from pipeline.engine.sample import Images, Sample
from pipeline.engine.scan import (
    is_current,
    left_out_until,
    open_folder,
    open_with_inputs,
    outdated,
)
from pipeline.engine.settings import plain
from pipeline.engine.stage import PerImage, Stage
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.evaluation import measures
from pipeline.evaluation.about import Configuration, describe
from pipeline.evaluation.record import changing_metrics
from pipeline.files.atomic import write_json_lines
from pipeline.files.fingerprints import fingerprint

FILES = ("metrics.json", FAILURES)
"""Its files in the output directory."""


@dataclass(frozen=True)
class Evaluation:
    """Measures the results of one round of training, where there is ground truth."""

    stages: Sequence[Stage]  # of the round
    images: Images
    vocabulary: Vocabulary
    config: Configuration
    store: Store
    round: int = 1

    def require_results(self, planned: Collection[str]) -> None:
        """Raises a UserError where there is, and will be, nothing that can be measured."""
        found = [each for each in self._folders() if each[1].entries and not each[0].accompanies]
        commands = {stage.command for stage in self.stages if stage.kind.figures}
        is_planned = commands & {*planned} or any(s.unknown_until() for s in self.stages)
        if not found and not is_planned:
            raise self._nothing()
        others = [stage for stage, _ in found if stage.command not in planned]
        stale = (self._samples(s, open_with_inputs(s, self.store))[1] for s in others)
        if changed := [*filter(None, stale)]:
            raise UserError("; ".join(changed))

    def _nothing(self) -> UserError:
        """Returns the error for nothing to measure; it names the stage that a run begins with."""
        masks = [stage for stage in self.stages if stage.kind is MASKS]
        first = masks[0].command if masks and not masks[0].needs else "tags"
        return UserError(f"there is nothing to evaluate: run stage={first} first")

    def measure(self, asked: Collection[str]) -> Iterator[Outcome]:
        """Measures, and writes ``metrics.json``; ``asked`` are the commands of the run.

        Images whose ground truth cannot be used are skipped; the figures say how many, and
        ``failures.jsonl`` beside ``metrics.json`` names them.

        Raises:
            UserError: there is nothing to measure, or none of the ground truth can be used.
        """
        measured, unmeasured, changed, outcomes, absent = [], [], [], [], []
        failures: dict[tuple[str, str], str] = {}
        store = self.store
        for stage, folder in self._folders():
            if not folder.entries and stage.command in asked:
                absent.append(f"{stage.name} of split {stage.split}")
            if not folder.entries or stage.accompanies:
                continue
            folders = open_with_inputs(stage, store)
            samples, stale = self._samples(stage, folders)
            if stale:
                changed.append(stale)
                measured.append((folder, "", None, {}))
                continue
            results = measures.Results(samples, folder, self.vocabulary)
            figures, unusable = self._measure(stage, results), results.unusable
            about = describe(stage, self.config, self.images)
            if self.round > 1:
                about["round"] = str(self.round)
            measured.append((folder, folder.input_key([s.id for s in samples]), figures, about))
            failures |= {(stage.split, i): reason for i, reason in unusable.items()}
            if figures is None:
                if unusable:
                    unmeasured.append(f"{folder.stage} of split {folder.split}")
                continue
            figures |= _links(stage, folder, folders, results.measured)
            if corrections := about["corrections"]:
                figures["corrections"] = corrections
            # Beside the results lies the file that says why images were skipped.
            place = store.root if unusable else store.root / "metrics.json"
            images = figures["images"] + len(unusable)
            what = f"{stage.split} {stage.name}"
            outcomes.append(Outcome("evaluate", what, images, 0, unusable, place))
        if not measured:
            raise self._nothing()
        with changing_metrics(store.root / "metrics.json") as metrics:
            for each in measured:
                metrics.put(*each)
            for each in self.stages if changed else ():  # withdraw what was made from old results
                if not each.accompanies and not getattr(self.folder(each), "entries", None):
                    metrics.latest.get(each.name, {}).pop(each.split, None)
        reasons = store.root / FAILURES
        lines = [{"split": s, "id": i, "reason": r} for (s, i), r in sorted(failures.items())]
        write_json_lines(reasons, lines)
        notes = [metrics.damage] * bool(metrics.damage)
        if absent:
            notes.append(f"not measured, since there are no results: {', '.join(absent)}")
        if not (outcomes or unmeasured or changed):
            notes.append("nothing was measured, since no image has ground truth")
            outcomes.append(Outcome("evaluate", "", 0, 0, {}, store.root))
        for outcome in outcomes:
            yield replace(outcome, note="; ".join(notes) if outcome is outcomes[0] else "")
        if unmeasured:
            raise UserError(
                f"none of the ground truth for {', '.join(unmeasured)} can be used: correct it as"
                f" {reasons} says"
            )
        if changed:
            raise UserError("; ".join(changed))

    def _samples(
        self, stage: PerImage, folders: Mapping[str, StageFolder]
    ) -> tuple[list[Sample], str]:
        """Returns the images to measure, and a sentence if results were made from others, or "".

        Raises:
            UserError: results are damaged.
        """
        folder, left_out = folders[stage.name], left_out_until(stage, self.store)
        samples = [s for s in self.images.of(stage.split) if s.id not in left_out]
        # Images that were not processed are not measured; changed ones are not passed over.
        results_of = [s for s in samples if s.id in folder.entries]
        which = f"{folder.stage} for split {folder.split}"
        again = f"run stage={stage.command} again"
        if damaged := [s for s in results_of if not folder.is_intact(s.id)]:
            raise UserError(f"{which} hold {len(damaged)} damaged files: {again}")
        if found := outdated(stage, self.store):
            changed, ids = found
            return samples, (
                f"the {which} were not measured, since the corrections of {len(ids)} tags were"
                f" changed: run stage={changed.command} again"
            )
        stale = [s for s in results_of if not is_current(stage, s, folders)]
        return samples, bool(stale) * (
            f"{len(stale)} of the {which} were made from another photograph or network, or from"
            f" other results, and were not measured: {again}"
        )

    def _folders(self) -> Iterator[tuple[PerImage, StageFolder]]:
        """Yields what can be measured, split by split: a stage, and where its results are."""
        measurable = [stage for stage in self.stages if stage.kind.figures]
        for split in dict.fromkeys(stage.split for stage in measurable):
            for stage in measurable:
                if stage.split == split and (folder := self.folder(stage)) is not None:
                    yield stage, folder

    def folder(self, stage: Stage) -> StageFolder | None:
        """Returns the folder of a stage; none where its key depends on what does not exist."""
        try:
            return None if stage.unknown_until() else open_folder(stage, self.store)
        except UserError:
            return None

    def _measure(self, stage: Stage, results: measures.Results) -> dict[str, Any] | None:
        holds = stage.kind.holds
        if holds == "tags":
            return measures.evaluate_tags(results, self.config.tags.absent_as_zero)
        if holds == "cams":
            return measures.evaluate_cams(results, plain(self.config.cams.background_betas))
        if holds == "masks":
            return measures.evaluate_masks(results)
        ceiling = next((self.folder(s) for s in self.stages if s.accompanies == stage), None)
        figures = measures.evaluate_labels(results, stage.variants, ceiling)
        networks = (self.folder(use) for use in stage.uses.values() if use.kind is NETWORK)
        network = next(networks, None)
        initial_weights = network.manifest().get("initial_weights") if network else None
        if figures is not None and initial_weights:
            figures["initial_weights"] = initial_weights
        return figures


def _links(
    stage: Stage, folder: StageFolder, folders: Mapping[str, StageFolder], ids: Sequence[str]
) -> dict[str, Any]:
    """Returns what tells whether figures of two stages are of results made from each other.

    Keys do not: they hold no image, and nothing that was learned.

    Args:
        stage: the measured stage.
        folder: its results.
        folders: those of the stages that it needs, by their names.
        ids: the images that were measured.
    """
    before = {
        folders[name].stage: _fingerprint_results(need, folders[name], ids)
        for name, need in stage.before.items()
        if need.kind.figures and {*ids} <= folders[name].entries.keys()
    }
    return {"results": _fingerprint_results(stage, folder, ids), "made_from": before}


def _fingerprint_results(stage: Stage, folder: StageFolder, ids: Sequence[str]) -> str:
    """Returns the fingerprint of what later stages read of these images' results."""
    has_tags = stage.kind.holds == "tags"
    result_of = (lambda i: folder.entries[i]["tags"]) if has_tags else folder.output_key
    return fingerprint([[image_id, result_of(image_id)] for image_id in sorted(ids)])
