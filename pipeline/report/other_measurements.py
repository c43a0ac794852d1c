"""Our own figures that are in no published table: other data sets, levels, rare classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

_WORDS = ["data set, split", "experiment", "tags", "clip", "of", "compat", "precision", "commit"]
"""The columns that hold words."""


class _Group(NamedTuple):
    """The runs of one data set, split and choice of settings, one for each stage."""

    dataset: str
    split: str
    choices: Choices
    shown: Mapping[str, Shown]

    def each(self, describe: Callable[[Run], str]) -> str:
        """Returns what differs among the runs, in the order of the stages."""
        return " / ".join(
            dict.fromkeys(filter(None, (describe(s.run) for s in self.shown.values())))
        )

    def names(self) -> dict[str, str]:
        return {
            "data set, split": f"{self.dataset} {self.split}",
            "experiment": self.choices.experiment,
            "tags": self.choices.tags,
        }

    def images(self) -> dict[str, str]:
        return {"images": self.each(lambda run: f"{run.images:,}")}

    def figures(self, notes: Notes, level: int = 0) -> dict[str, str]:
        return {
            label: self.shown[stage].cell(metric, notes, level=level) if stage in self.shown else ""
            for label, (stage, metric) in _FIGURES.items()
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
    groups: dict[tuple[str, str, Choices], dict[str, list[Run]]] = {}
    for run in runs:
        stages = groups.setdefault((run.dataset, run.split, run.choices), {})
        stages.setdefault(run.stage, []).append(run)
    for key in sorted(groups):
        yield _Group(*key, {stage: choose_run(several) for stage, several in groups[key].items()})


def _other_data_sets(runs: Sequence[Run]) -> str:
    notes = Notes()
    rows = [
        {
            **group.names(),
            **group.images(),
            **group.figures(notes),
            "clip": group.choices.backbone,
            "compat": group.choices.compat,
            "precision": group.choices.precision,
            "commit": group.each(lambda run: run.commit),
        }
        for group in _group(runs)
    ]
    return _section("Other measurements (%)", rows, notes)


def _levels(runs: Sequence[Run]) -> str:
    notes = Notes()
    rows = [
        {
            **group.names(),
            "clip": group.choices.backbone,
            **group.images(),
            "of": f"level {level}" if level else "classes",
            "number": group.each(lambda run, level=level: _count_classes(run, level)),
            **group.figures(notes, level),
        }
        for group in _group(runs)
        for level in range(max(len(shown.run.levels) for shown in group.shown.values()))
    ]
    return _section("Classes, and the levels above them (%)", rows, notes)


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
        quarters = {}
        for i, label in enumerate(_QUARTERS):
            quarter = counted[len(counted) * i // 4 : len(counted) * (i + 1) // 4]
            mean = sum(ap for _, ap in quarter) / len(quarter)
            quarters[label] = f"{percent(mean)} ({quarter[0][0]}–{quarter[-1][0]})"
        rows.append(
            {
                **group.names(),
                "clip": group.choices.backbone,
                **group.images(),
                "classes": str(len(counted)),
                **quarters,
                "Spearman's ρ": _rank_correlation(counted),
            }
        )
    explanation = (
        "Mean AP (%) in quarters of the classes by how many images show them (in brackets), and the"
        " rank correlation of the two. Classes that no image shows are left out. Chance gives a"
        " rare class less, since its AP is then the share of images that show it.\n\n"
    )
    return _section("Rare classes", rows, Notes(), explanation)


def _rank_correlation(counted: Sequence[tuple[int, float]]) -> str:
    positives, precisions = zip(*counted, strict=True)
    if len(set(positives)) == 1 or len(set(precisions)) == 1:
        return ""
    # Rarely needed, and slow to import.
    from scipy.stats import spearmanr

    return f"{spearmanr(positives, precisions).statistic:+.2f}"


def _section(
    title: str, rows: Sequence[dict[str, str]], notes: Notes, explanation: str = ""
) -> str:
    if not rows:
        return ""
    table = padded_table(rows[0], map(dict.values, rows), _WORDS)
    return f"## {title}\n\n{explanation}{table}{notes.lines()}"
