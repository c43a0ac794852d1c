"""The stage ``evaluate``: measures the existing results against the ground truth."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.configuration.settings import plain
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.kinds import MASKS, NETWORK
from pipeline.engine.lineage import RunResults
from pipeline.engine.records import Counterparts
from pipeline.engine.results import FAILURES, Results
from pipeline.engine.run import Outcome
from pipeline.engine.sample import Images, Sample
from pipeline.engine.stage import PerImage, Stage
from pipeline.engine.store import Store
from pipeline.errors import NeedsStage, UserError
from pipeline.evaluation import measures
from pipeline.evaluation.about import (
    About,
    Configuration,
    choices_behind,
    found_precision,
    settings_behind,
)
from pipeline.evaluation.currency import MeasuredOn
from pipeline.evaluation.record import changing_metrics
from pipeline.files.atomic import write_json_lines
from pipeline.files.text import given_path

FILES = ("metrics.json", FAILURES)
"""Its files in the output directory."""


class _Measured(NamedTuple):
    """What was found of a result."""

    figures: dict[str, Any] | None  # none where no ground truth can be used
    about: About
    unusable: Mapping[str, str]  # id of an image → why its ground truth cannot be used


@dataclass(frozen=True)
class Evaluation:
    """Measures the results of one round of training, where there is ground truth."""

    stages: Sequence[Stage]  # of the round
    images: Images
    vocabulary: Vocabulary
    config: Configuration
    store: Store
    counterparts: Callable[[Stage], Counterparts]  # what the run is on each split

    def require_results(self, planned: Collection[str]) -> None:
        """Raises a UserError where there is, and will be, nothing that can be measured."""
        commands = {stage.command for stage in self.stages if stage.kind.figures}
        is_planned = commands & {*planned} or any(s.unknown_until() for s in self.stages)
        if not self.results and not is_planned:
            raise self._nothing()
        others = [result for result in self.results if result.stage.command not in planned]
        if changed := {change: r.stage.command for r in others if (change := self._change(r))}:
            raise NeedsStage("; ".join(changed), [*changed.values()][-1])

    def _nothing(self) -> NeedsStage:
        """Returns the error for nothing to measure; it names the stage that a run begins with."""
        masks = [stage for stage in self.stages if stage.kind is MASKS]
        first = masks[0].command if masks and not masks[0].needs else "tags"
        return NeedsStage(f"there is nothing to evaluate: run stage={first} first", first)

    def measure(self, asked: Collection[str]) -> Iterator[Outcome]:
        """Measures, and writes ``metrics.json``; ``asked`` are the commands of the run.

        Images whose ground truth cannot be used are skipped; the figures say how many, and
        ``failures.jsonl`` beside ``metrics.json`` names them. Raises a UserError if there is
        nothing to measure, or none of the ground truth can be used.
        """
        if not (changes := {result: self._change(result) for result in self.results}):
            raise self._nothing()
        found: dict[RunResults, _Measured] = {}
        for result, change in changes.items():
            if not (change or result.stage.is_ground_truth):
                found[result] = self._measure(result, found)
        measured = {result: each for result, each in found.items() if each.figures is not None}
        unmeasured = [r for r, each in found.items() if each.figures is None and each.unusable]
        notes = self._record(measured, asked)
        reasons = self.store.root / FAILURES
        failures = {(r.split, i): why for r, m in found.items() for i, why in m.unusable.items()}
        lines = [{"split": s, "id": i, "reason": why} for (s, i), why in sorted(failures.items())]
        write_json_lines(reasons, lines)
        outcomes = [self._outcome(result, each) for result, each in measured.items()]
        if not (outcomes or unmeasured or any(changes.values())):
            is_truth = all(result.stage.is_ground_truth for result in changes)
            why = "the masks are the ground truth" if is_truth else "no image has ground truth"
            notes.append(f"nothing was measured, since {why}")
            outcomes.append(Outcome("evaluate", "", 0, 0, {}, self.store.root))
        for outcome in outcomes:
            yield replace(outcome, note="; ".join(notes) if outcome is outcomes[0] else "")
        if unmeasured:
            names = ", ".join(f"{result.name} of split {result.split}" for result in unmeasured)
            raise UserError(
                f"none of the ground truth for {names} can be used: {reasons} tells what to correct"
            )
        if changed := dict.fromkeys(filter(None, changes.values())):
            raise UserError(f"some results were not measured: {'; '.join(changed)}")

    def _measure(self, result: RunResults, known: Mapping[RunResults, _Measured]) -> _Measured:
        """Measures a result; the figures name those of ``known`` that it was made from."""
        stage = result.stage
        inputs = measures.EvaluationInputs(self._with_results(result), result, self.vocabulary)
        figures, about = self._figures(stage, inputs), choices_behind(stage, self.config)
        if figures is None:
            return _Measured(None, about, inputs.unusable)
        about = replace(about, precision=found_precision(about.precision, Results(result.path)))
        if about.corrections:
            figures["corrections"] = about.corrections
        if any(each.is_ground_truth for each in stage.chain):
            figures["supervised"] = True
        measured_on = self._measured_on(result)
        measured_on.write(result.path)
        # Tables join figures by these: keys hold no image, and nothing that was learned.
        results = {r.path: each.figures["results"] for r, each in known.items() if each.figures}
        needs = [need for need in result.needs.values() if need.path in results]
        figures["results"], figures["measured_on"] = measured_on.results, measured_on.key
        figures["read"] = {need.name: results[need.path] for need in needs}
        return _Measured(figures, about, inputs.unusable)

    def _outcome(self, result: RunResults, measured: _Measured) -> Outcome:
        """Returns what the run says of a result; beside it lies the file of skipped images."""
        root, unusable = self.store.root, measured.unusable
        what, images = f"{result.split} {result.name}", measured.figures["images"] + len(unusable)
        place = root if unusable else root / "metrics.json"
        return Outcome("evaluate", what, images, 0, unusable, place)

    def _record(
        self, measured: Mapping[RunResults, _Measured], asked: Collection[str]
    ) -> list[str]:
        """Writes figures to ``metrics.json``; returns what is remarkable about the others.

        The latest figures of a split belong together: those of other results are withdrawn.
        """
        places = {(results.split, results.name) for results in measured}
        ours = {(results.split, results.name) for results in self.results}
        absent = []
        with changing_metrics(self.store.root / "metrics.json") as metrics:
            for stage in self._measurable:
                if (place := (stage.split, stage.name)) in places:
                    continue
                latest = metrics.latest.get(stage.name, {})
                is_withdrawn = stage.round == 1 and latest.pop(stage.split, None) is not None
                if place not in ours and (is_withdrawn or stage.command in asked):
                    absent.append(f"{stage.name} of split {stage.split}")
            notes = [metrics.damage] if metrics.damage else []
            for results, found in measured.items():
                known = metrics.find(results.name, results.split, results.key) or {}
                settings = settings_behind(results.stage, self.config)
                metrics.put(results, found.figures, found.about, settings)
                if (before := known.get("images", 0)) > (now := found.figures["images"]):
                    what = f"{results.name} of split {results.split}"
                    notes.append(f"metrics of {now:,} images replace those of {before:,}: {what}")
        if absent:
            notes.append(f"not measured, since there are no results: {', '.join(absent)}")
        return notes

    def now(self) -> dict[tuple[str, str, str], MeasuredOn | str | None]:
        """Returns what figures would be measured on now, for a Currency."""
        found: dict[tuple[str, str, str], MeasuredOn | str | None] = {
            (stage.split, stage.name, ""): "" for stage in self._measurable
        }
        for stage in self._measurable:  # of splits that the run does not work on, folders tell
            for split, (same, *_) in self.counterparts(stage).items():
                found.setdefault((split, *same.split("/")), None)
        for result in self.results:
            place = result.split, result.name, result.key
            found[place] = self._change(result) or self._measured_on(result)
        return found

    def _change(self, result: RunResults) -> str:
        """Returns why results cannot be measured: they, or what they were made from, changed."""
        return result.describe_change(sample.id for sample in self._with_results(result))

    def _with_results(self, result: RunResults) -> list[Sample]:
        """Returns the images that were processed; others are not measured."""
        done = result.entries.keys() - result.left_out
        return [sample for sample in self.images.of(result.split) if sample.id in done]

    def _measured_on(self, result: RunResults) -> MeasuredOn:
        """Returns what figures of results are measured on."""
        dataset, of_tags = self.config.dataset, result.stage.kind.holds == "tags"
        samples = [
            sample
            for sample in self._with_results(result)
            if (sample.has_ground_truth if of_tags else sample.mask is not None)
        ]
        settings = {"levels": plain(self.vocabulary.levels), "ignore": dataset.ignore_background}
        if of_tags:
            settings["absent_as_zero"] = self.config.tags.absent_as_zero
        elif result.stage.kind.holds == "cams":
            settings["background_betas"] = plain(self.config.cams.background_betas)
        key, given = ("labels", dataset.labels) if of_tags else ("masks", dataset.masks)
        lists = [] if given is None else [given_path(given, f"dataset.{key}").absolute()]
        return MeasuredOn.of(result, samples, settings, lists)

    @cached_property
    def _measurable(self) -> list[PerImage]:
        """The stages that are measured, split by split."""
        found = [stage for stage in self.stages if stage.kind.figures]
        splits = dict.fromkeys(stage.split for stage in found)
        return [stage for split in splits for stage in found if stage.split == split]

    @cached_property
    def results(self) -> list[RunResults]:
        """The results of these stages, as far as there are any."""
        known: dict[Stage, RunResults] = {}
        opened = (stage for stage in self._measurable if self.results_of(stage) is not None)
        found = [RunResults(stage, self.store, self.images, known) for stage in opened]
        return [result for result in found if result.entries]

    def results_of(self, stage: Stage) -> Results | None:
        """Returns a stage's results; none where its key depends on what does not exist."""
        try:
            return None if stage.unknown_until() else stage.results(self.store)
        except UserError:
            return None

    def _figures(self, stage: Stage, inputs: measures.EvaluationInputs) -> dict[str, Any] | None:
        holds = stage.kind.holds
        if holds == "tags":
            return measures.evaluate_tags(inputs, self.config.tags.absent_as_zero)
        if holds == "cams":
            return measures.evaluate_cams(inputs, plain(self.config.cams.background_betas))
        if holds == "masks":
            return measures.evaluate_masks(inputs)
        figures = measures.evaluate_labels(inputs, stage.variants)
        networks = (self.results_of(use) for use in stage.uses.values() if use.kind is NETWORK)
        network = next(networks, None)
        initial_weights = network.manifest.get("initial_weights") if network else None
        if figures is not None and initial_weights:
            figures["initial_weights"] = initial_weights
        return figures
