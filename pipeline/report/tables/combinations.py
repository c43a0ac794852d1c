"""Combinations of methods, the rows of the leaderboard."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from statistics import mean
from typing import Any

from pipeline.configuration.registry import label_of, quirks
from pipeline.engine.kinds import (
    CAMS,
    MASKS,
    NETWORK,
    PREDICTIONS,
    Kind,
    figure_columns,
    kinds,
    measured_kinds,
)
from pipeline.masks.settings import method_word
from pipeline.report.tables.configurations import flatten, readable
from pipeline.report.tables.grouping import grouped, without_seed
from pipeline.report.tables.markdown import Notes, percent_of_several
from pipeline.report.tables.runs import MeasuredRun, map_notes

_Chain = Sequence[MeasuredRun]
"""The run of a result, then those of the stages before it."""

_GIVEN = "ground_truth"  # the choice of ``tags=`` that takes the image labels of the ground truth


class Combination:
    """A row: the runs that led to the last one; several of a stage differ in seed, or in split."""

    def __init__(self, chains: Sequence[_Chain]):
        self.chains = chains
        self.last = chains[-1][0]
        found = grouped((run for chain in chains for run in chain), lambda run: run.stage)
        self.runs = {
            stage: [*{(run.split, run.key): run for run in runs}.values()]
            for stage, runs in found.items()
        }
        self.settings = self.last.chain

    @cached_property
    def choices(self) -> dict[str, str]:
        """Returns the words of the row by their columns, "" where there are none."""
        about, methods, order = self.last.about, {}, kinds()
        used = {**about.methods, "": about.segmenter}
        for kind in measured_kinds().values():
            settings = self.settings.get(kind.stage, {})
            # Tags of a later round name the methods of the round before.
            is_before = order.index(kind) <= order.index(self.last.kind)
            methods[kind.method] = used.get(kind.group, "") if is_before else ""
            if kind is CAMS:
                affinity = settings.get("affinity") if used.get("cams") else None
                methods["affinity"] = {True: "yes", False: "no"}.get(affinity, "")
                # Masks that need no CAMs may name the dense method that they read (masks=dense).
                methods[kind.method] = methods[kind.method] or str(settings.get("method", ""))
            elif kind is MASKS and settings.get("crf", "") is None:
                methods[kind.method] = method_word(settings)
            label = about.labels.get(kind.group)
            methods[kind.method] = label or label_of(kind.group, methods[kind.method])
            if is_before and "path" in settings:  # of what is given: its source is the method
                methods[kind.method] += f" {settings['path']}"
        commits = [r.about.commit for runs in self.runs.values() for r in runs][::-1]
        return {
            **methods,
            "round": about.round,
            "CLIP": self.last.backbone,
            "compat": about.compat,
            "precision": about.precision,
            "commit": " / ".join(dict.fromkeys(filter(None, commits))),
        }

    @property
    def has_given_tags(self) -> bool:
        """Whether image labels are given, here or in an earlier round.

        Their own figures would be 100, and they help all others.
        """
        nested = (v for n, v in flatten(self.settings).items() if n.endswith("tags.method"))
        return _GIVEN in (self.last.about.methods.get("tags"), *nested)

    def settings_of(self, kind: Kind) -> dict[str, Any]:
        """Returns the settings of one stage, without those of the stages before it."""
        left_out = {"affinity", "clip", "name", *quirks(), *(each.stage for each in kinds())}
        settings = readable(self.settings.get(kind.stage, {}), self.last.figures.get("legend", {}))
        found = {name: value for name, value in settings.items() if name not in left_out}
        network = {NETWORK.stage: self.settings_of(NETWORK)} if kind is PREDICTIONS else {}
        return found | network

    def values(self, column: str) -> list[float]:
        """Returns the figures of all seeds, as far as they were measured."""
        kind, metric = figure_columns()[column]
        if kind.holds == "tags" and self.has_given_tags:
            return []
        runs = [run for run in self.runs.get(kind.stage, ()) if run.value(metric) is not None]
        # A mean over splits needs a figure of each.
        is_of_all = {run.split for run in runs} == {run.split for run, *_ in self.chains}
        return [run.value(metric) for run in runs] if is_of_all else []

    def cell(self, column: str, notes: Notes) -> str:
        """Returns a figure in percent with the marks of its notes."""
        kind, metric = figure_columns()[column]
        if not (values := self.values(column)):
            return ""
        runs = self.runs[kind.stage]
        run = runs[0]
        remarks = map_notes(run.figures) if metric == "map" else run.help_by_ground_truth()
        removed = (each.figures["remark"] for each in runs if "remark" in each.figures)
        marks = "".join(map(notes.mark, dict.fromkeys([*remarks, *removed])))
        count = len({each.key for each in runs if each.split == run.split})
        seeds = f" ({count} seeds)" if count > 1 else ""
        return f"{percent_of_several(values)}{marks}{seeds}"

    def rank(self) -> list[tuple[bool, float]]:
        """Returns what orders rows: the last stage first, higher figures first."""
        found = [self.values(column) for column in reversed(figure_columns())]
        return [(not values, -mean(values) if values else 0.0) for values in found]


def combinations(runs: Sequence[MeasuredRun]) -> Iterator[Combination]:
    """Yields the runs that no later one is made from, each with those that it is made from."""
    by_name = grouped(runs, lambda run: f"{run.stage}/{run.key}")
    leaves = {run.order for run in runs}
    chains = []
    for run in runs:
        chain, names = [run], dict[str, str]()
        for name in run.counterparts[-1].get(run.split, ()) if run.counterparts else ():
            names.setdefault(name.partition("/")[0], name)  # those of the last round come first
        for stage in [*run.chain][1:]:
            if not (same := by_name.get(names.get(stage, ""))):
                continue
            # Keys do not tell: what was learned, or the images, may have changed since.
            results = chain[-1].figures.get("read", {}).get(stage)
            same = [each for each in same if results in (None, each.figures.get("results"))]
            if not same:
                break
            before = max(same, key=lambda r: (r.about.precision == run.about.precision, r.order))
            chain.append(before)
            leaves.discard(before.order)
        chains.append(chain)
    ends = (chain for chain in chains if chain[0].order in leaves)
    yield from map(Combination, grouped(ends, lambda chain: without_seed(chain[0])).values())


def merge_splits(by_split: Sequence[Sequence[Combination]]) -> Iterator[Combination]:
    """Yields the rows that every split has of the same runs, of the seeds that all have."""
    for row in by_split[0]:
        alike = [[[chain] for chain in row.chains]]  # of each row that may come: chains by seed
        for rows in by_split[1:]:
            more = ([_extended(each, row) for each in chains] for chains in alike for row in rows)
            alike = [kept for chains in more if (kept := [*filter(None, chains)])]
        yield from (Combination([chain for same in chains for chain in same]) for chains in alike)


def _extended(chains: list[_Chain], row: Combination) -> list[_Chain]:
    """Returns chains of one run on several splits with that of a row; [] if it has none."""
    found = (chain for chain in row.chains if all(chain[0].is_of_run(each[0]) for each in chains))
    return next(([*chains, chain] for chain in found), [])
