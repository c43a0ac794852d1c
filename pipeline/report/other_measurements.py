"""Our own figures that are in no published table: other data sets, levels, rare classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pipeline.report.markdown import Notes, padded_table, percent
from pipeline.report.runs import Choices, Run, Shown, choose_run

_MIN_CLASSES = 8
"""Quarters of fewer classes say nothing."""

_QUARTERS = ("rarest quarter", "second", "third", "most frequent quarter")
_FIGURES = {
    "mAP": ("tags", "map"),
    "F1": ("tags", "f1"),
    "mIoU CAMs": ("cams", "miou"),
    "masks": ("masks", "miou"),
    "segmenter": ("predictions", "miou"),
}
"""Column → stage and metric."""

_METHODS = {"cams=": "cams", "masks=": "masks"}
"""Column → the group whose method it names."""

_PLACE = ("data set, split", "experiment", "tags")
_WORDS = (*_PLACE, *_METHODS, "clip", "of", "compat", "precision", "commit")
"""The columns that hold words."""


class _Group(NamedTuple):
    """The runs of one data set, split and choice of settings, one for each stage."""

    dataset_split: str
    choices: Choices
    shown: Mapping[str, Shown]

    def each(self, describe: Callable[[Run], str]) -> str:
        """Returns what differs among the runs, in the order of the stages."""
        words = (describe(shown.run) for shown in self.shown.values())
        return " / ".join(dict.fromkeys(filter(None, words)))

    def row(self, notes: Notes, level: int = 0) -> dict[str, str]:
        """Returns the cells of all columns that several tables have."""
        return {
            "data set, split": self.dataset_split,
            **self.choices._asdict(),
            "clip": self.choices.backbone,
            **{label: self.each(partial(_method, group)) for label, group in _METHODS.items()},
            "commit": self.each(lambda run: run.about.get("commit", "")),
            "images": self.each(lambda run: f"{run.images:,}"),
            **{
                label: self.shown[stage].cell(metric, notes, level)
                for label, (stage, metric) in _FIGURES.items()
                if stage in self.shown
            },
        }


def write_measurements(runs: Sequence[Run], is_published: Callable[[Run], bool]) -> str:
    """Returns the figures of the runs that no published table shows, as Markdown, or ""."""
    # Given image labels are not a measurement: all of their figures would be 100.
    measured = [r for r in runs if r.stage != "tags" or r.choices.tags != "ground_truth"]
    sections = [
        _other_data_sets([run for run in measured if not is_published(run)]),
        _levels([run for run in measured if len(run.levels) > 1]),
        _rare_classes([run for run in measured if run.stage == "tags"]),
    ]
    return "\n".join(filter(None, sections))


def _group(runs: Sequence[Run]) -> Iterator[_Group]:
    """Yields a group for each choice of methods; runs of an earlier stage belong to several."""
    groups: dict[tuple[str, Choices], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.dataset_split, run.choices), []).append(run)
    for key, of_group in sorted(groups.items()):
        chains = sorted({_chain(run) for run in of_group})
        for chain in chains:
            if any(_begins(other, chain) for other in chains if other != chain):
                continue
            stages: dict[str, list[Run]] = {}
            for run in of_group:
                if _begins(chain, _chain(run)):
                    stages.setdefault(run.stage, []).append(run)
            yield _Group(*key, {stage: choose_run(several) for stage, several in stages.items()})


def _chain(run: Run) -> tuple[str, ...]:
    """Returns the methods by which a run got its results, after the tags."""
    return tuple(_method(group, run) for group in _METHODS.values())


def _method(group: str, run: Run) -> str:
    return run.about.get(group, "")


def _begins(chain: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tells whether another chain is this one up to an earlier stage."""
    return all(name in ("", whole) for whole, name in zip(chain, other))


def _other_data_sets(runs: Sequence[Run]) -> str:
    notes = Notes()
    columns = [*_PLACE, *_METHODS, "images", *_FIGURES, "clip", "compat", "precision", "commit"]
    rows = [group.row(notes) for group in _group(runs)]
    return _section("Other measurements (%)", columns, rows, notes.lines())


def _levels(runs: Sequence[Run]) -> str:
    notes, rows = Notes(), []
    for group in _group(runs):
        for level in range(max(len(shown.run.levels) for shown in group.shown.values())):
            number = group.each(lambda run, level=level: _count_classes(run, level))
            of = f"level {level}" if level else "classes"
            rows.append({**group.row(notes, level), "of": of, "number": number})
    columns = [*_PLACE, *_METHODS, "clip", "images", "of", "number", *_FIGURES]
    return _section("Classes, and the levels above them (%)", columns, rows, notes.lines())


def _count_classes(run: Run, level: int) -> str:
    if level >= len(run.levels):
        return ""
    per_class = run.levels[level].get("per_class", {})
    return str(len(per_class if run.stage == "tags" else per_class.keys() - {"background"}))


def _rare_classes(runs: Sequence[Run]) -> str:
    rows = []
    for group in _group(runs):
        run = group.shown["tags"].run
        pairs = zip(run.class_values("positives"), run.class_values("ap"))
        counted = [(int(n), ap) for n, ap in pairs if n and ap is not None]
        # By the number alone: to sort equal ones by their AP would bias the quarters.
        counted.sort(key=lambda pair: pair[0])
        if len(counted) < _MIN_CLASSES:
            continue
        row = {"classes": str(len(counted)), "Spearman's ρ": _rank_correlation(counted)}
        for i, label in enumerate(_QUARTERS):
            quarter = counted[len(counted) * i // 4 : len(counted) * (i + 1) // 4]
            mean = sum(ap for _, ap in quarter) / len(quarter)
            row[label] = f"{percent(mean)} ({quarter[0][0]}–{quarter[-1][0]})"
        rows.append({**group.row(Notes()), **row})
    explanation = (
        "Mean AP (%) in quarters of the classes by how many images show them (in brackets), and the"
        " rank correlation of the two. Classes that no image shows are left out. Chance gives a"
        " rare class less, since its AP is then the share of images that show it.\n\n"
    )
    columns = [*_PLACE, "clip", "images", "classes", *_QUARTERS, "Spearman's ρ"]
    return _section("Rare classes", columns, rows, explanation=explanation)


def _rank_correlation(counted: Sequence[tuple[int, float]]) -> str:
    positives, precisions = zip(*counted, strict=True)
    if len(set(positives)) == 1 or len(set(precisions)) == 1:
        return ""
    # Rarely needed, and slow to import.
    from scipy.stats import spearmanr

    return f"{spearmanr(positives, precisions).statistic:+.2f}"


def _section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    notes: str = "",
    explanation: str = "",
) -> str:
    if not rows:
        return ""
    cells = [[row.get(column, "") for column in columns] for row in rows]
    return f"## {title}\n\n{explanation}{padded_table(columns, cells, _WORDS)}{notes}"
