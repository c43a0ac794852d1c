"""Combinations of methods: what the rows of the leaderboard are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from statistics import mean
from typing import Any

from pipeline.clip.quirks import Quirks
from pipeline.files.atomic import canonical_json
from pipeline.report.configurations import flatten
from pipeline.report.markdown import Notes, percent_of_several
from pipeline.report.remarks import map_notes
from pipeline.report.runs import STAGES, Run, without_seed

FIGURES = {
    "mAP": ("tags", "map"),
    "F1": ("tags", "f1"),
    "mIoU CAMs": ("cams", "miou"),
    "mIoU masks": ("masks", "miou"),
    "mIoU segmenter": ("predictions", "miou"),
}
"""Column → stage and metric; a later stage decides the order of the rows before an earlier one."""

METHODS = {"tags": "tags", "cams": "cams", "masks": "masks", "network": "predictions"}
"""Column of a method → its stage."""

_GIVEN = "ground_truth"
"""The choice of ``tags=`` that takes the image labels of the ground truth."""

_IN_COLUMNS = {"affinity", "clip", *vars(Quirks())}
"""Settings of a stage that a column of their own shows."""


class Combination:
    """A row: the runs of every stage that led to the last one.

    There are several of a stage where seeds differ, or splits that a mean is taken over.
    """

    def __init__(self, chains: Sequence[Mapping[str, Run]]):
        self.chains = chains
        self.last = _last(chains[-1])
        self.runs: dict[str, list[Run]] = {}
        for stage in dict.fromkeys(stage for chain in chains for stage in chain):
            found = [chain[stage] for chain in chains if stage in chain]
            self.runs[stage] = list({(run.split, run.key): run for run in found}.values())
        self.settings = self.last.chain

    @property
    def identity(self) -> str:
        """What distinguishes it from the other rows of its images."""
        return _identity(self.last)

    @cached_property
    def choices(self) -> dict[str, str]:
        """Returns the words of the row by their columns, "" where there are none."""
        about, settings = dict(self.last.about), self.settings
        if self.last.stage == "tags":
            # Tags of a later round name the methods of the round before.
            about |= {"cams": "", "masks": ""}
        # Masks that need no CAMs may name the dense method that they read out (masks=dense).
        masks, cams = settings.get("masks", {}), settings.get("cams", {})
        commits = [r.about.get("commit", "") for of in self.runs.values() for r in of][::-1]
        return {
            "tags": about.get("tags", ""),
            "cams": about.get("cams") or str(cams.get("method", "")),
            "affinity": _affinity(cams) if about.get("cams") and cams else "",
            # The CRF without its constants is the argmax of the CAMs (masks=argmax).
            "masks": "argmax" if masks.get("crf", "") is None else about.get("masks", ""),
            "network": about.get("segmenter", "") if self.last.stage == "predictions" else "",
            "round": about.get("round", ""),
            "CLIP": self.last.choices.backbone,
            "compat": about.get("compat", ""),
            "precision": about.get("precision", ""),
            "commit": " / ".join(dict.fromkeys(filter(None, commits))),
        }

    @property
    def has_given_tags(self) -> bool:
        """Whether image labels are given, here or in an earlier round.

        Their own figures would be 100, and they help all others.
        """
        nested = (v for n, v in flatten(self.settings).items() if n.endswith("tags.method"))
        return _GIVEN in (self.last.about.get("tags"), *nested)

    def own_settings(self, stage: str) -> dict[str, Any]:
        """Returns the settings of one stage, without those of the stages before it."""
        left_out = _IN_COLUMNS.union(STAGES)
        found = {k: v for k, v in self.settings.get(stage, {}).items() if k not in left_out}
        if stage == "predictions":
            segmenter = self.settings.get("segmenter", {})
            found["segmenter"] = {k: v for k, v in segmenter.items() if k not in left_out}
        return found

    def values(self, column: str) -> list[float]:
        """Returns the figures of all seeds, as far as they were measured."""
        stage, metric = FIGURES[column]
        if stage == "tags" and self.has_given_tags:
            return []
        values = [run.value(metric) for run in self.runs.get(stage, ())]
        return [value for value in values if value is not None]

    def cell(self, column: str, notes: Notes) -> str:
        """Returns a figure in percent with the marks of its notes."""
        stage, metric = FIGURES[column]
        if not (values := self.values(column)):
            return ""
        run = self.runs[stage][0]
        remarks = map_notes(run.figures) if metric == "map" else run.help_by_ground_truth()
        marks = "".join(map(notes.mark, remarks))
        count = len({of_seed.key for of_seed in self.runs[stage]})
        seeds = f" ({count} seeds)" * (count > 1)
        return f"{percent_of_several(values)}{marks}{seeds}"

    def rank(self) -> list[tuple[bool, float]]:
        """Returns what orders rows: the last stage first, higher figures first."""
        found = [self.values(column) for column in reversed(FIGURES)]
        return [(not values, -mean(values) if values else 0.0) for values in found]


def combinations(runs: Sequence[Run]) -> Iterator[Combination]:
    """Yields the runs that no later one is made from, each with those that it is made from."""
    by_settings = {(run.stage, canonical_json(run.configuration)): run for run in runs}
    leaves = dict.fromkeys(run.key for run in runs)
    chains = []
    for run in runs:
        chain = {run.stage: run}
        for stage, settings in [*run.chain.items()][1:]:
            earlier = by_settings.get((stage, canonical_json(settings)))
            if earlier is None:
                continue
            if not _is_made_from([*chain.values()][-1], earlier):
                break
            chain[stage] = earlier
            leaves.pop(earlier.key, None)
        chains.append(chain)
    same: dict[str, list[Mapping[str, Run]]] = {}
    for run, chain in zip(runs, chains):
        if run.key in leaves:
            same.setdefault(_identity(run), []).append(chain)
    yield from map(Combination, same.values())


def merge_splits(by_split: Sequence[Sequence[Combination]]) -> Iterator[Combination]:
    """Yields the rows that every split has, with the runs of all, of the seeds that all have."""
    same: dict[str, list[Combination]] = {}
    for rows in by_split:
        for row in rows:
            same.setdefault(row.identity, []).append(row)
    for rows in same.values():
        if len(rows) < len(by_split):
            continue
        # A split with more seeds than another would count more often.
        common = set.intersection(*({_last(chain).key for chain in row.chains} for row in rows))
        chains = [chain for row in rows for chain in row.chains if _last(chain).key in common]
        if chains:
            yield Combination(chains)


def _last(chain: Mapping[str, Run]) -> Run:
    return next(iter(chain.values()))


def _is_made_from(later: Run, earlier: Run) -> bool:
    """Tells whether a result was made from another one as that is, if this is known.

    Equal settings do not tell: what was learned, or the images, may have changed in between.
    """
    expected = later.figures.get("made_from", {}).get(earlier.stage)
    return expected in (None, earlier.figures.get("results"))


def _identity(run: Run) -> str:
    return f"{run.stage} {without_seed(run)}"


def _affinity(cams: Mapping[str, Any]) -> str:
    # CLIP-ES's own had no such setting once, and always refined.
    return {True: "yes", False: "no"}.get(cams.get("affinity", "affinity_blocks" in cams), "")
