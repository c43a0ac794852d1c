"""Our own figures that stand in no published table: other data sets, levels, rare classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.report.markdown import Notes, padded_table, percent, percent_or_blank
from pipeline.report.runs import (
    MAIN_METRIC,
    Choices,
    Run,
    as_number,
    choose_run,
    join_different,
)

_FEWEST_CLASSES = 8
"""Below this, quarters of the classes say nothing."""

_QUARTERS = ("rarest quarter", "second", "third", "most frequent quarter")
_SETTINGS = ("clip", "compat", "precision", "commit")

Chosen = Mapping[str, tuple[Run, int]]
"""stage → the run that is shown, and how many configurations it was chosen from."""


def write_measurements(runs: Sequence[Run], is_published: Callable[[Run], bool]) -> str:
    """Returns what is in no published table, as Markdown; nothing where there is none.

    Args:
        runs: everything that was measured.
        is_published: tells whether a published table shows a run.
    """
    # Image labels that were given are no measurement; all of their figures would be 100.
    measured = [r for r in runs if r.stage != "tags" or r.choices.tags != "ground_truth"]
    sections = [
        _other_data_sets([run for run in measured if not is_published(run)]),
        _levels(measured),
        _rare_classes(measured),
    ]
    return "\n".join(section for section in sections if section)


def _group(runs: Sequence[Run]) -> list[tuple[str, str, Choices, Chosen]]:
    """Returns data set, split, choices, and what was chosen for each stage, in their order."""
    groups: dict[tuple[str, str, Choices], dict[str, list[Run]]] = {}
    for run in runs:
        stages = groups.setdefault((run.dataset, run.split, run.choices), {})
        stages.setdefault(run.stage, []).append(run)
    return [
        (*key, {stage: choose_run(several) for stage, several in groups[key].items()})
        for key in sorted(groups)
    ]


def _figure(chosen: Chosen, stage: str, metric: str, level: int, notes: Notes) -> str:
    if stage not in chosen:
        return ""
    run, several = chosen[stage]
    value = run.value(metric, level)
    if value is None:
        return ""
    text = percent(value) + "".join(notes.mark(note) for note in run.notes())
    return f"{text} (latest of {several})" if several > 1 else text


def _figures(chosen: Chosen, level: int, notes: Notes) -> list[str]:
    """Returns mAP and F1 of the tags, and mIoU of maps, masks and predictions."""
    columns = [("tags", "f1")]
    columns += MAIN_METRIC.items()
    columns.sort(key=lambda column: column != ("tags", "map"))
    return [_figure(chosen, stage, metric, level, notes) for stage, metric in columns]


_FIGURES = ("mAP", "F1", "mIoU maps", "masks", "segmenter")


def _other_data_sets(runs: Sequence[Run]) -> str:
    notes = Notes()
    rows = []
    for dataset, split, choices, chosen in _group(runs):
        shown = [run for run, _ in chosen.values()]
        rows.append(
            [
                f"{dataset} {split}",
                choices.experiment,
                choices.tags,
                join_different(f"{run.images:,}" for run in shown),
                *_figures(chosen, 0, notes),
                choices.backbone,
                choices.compat,
                choices.precision,
                join_different(run.commit for run in shown),
            ]
        )
    if not rows:
        return ""
    header = ["data set, split", "experiment", "tags", "images", *_FIGURES, *_SETTINGS]
    table = padded_table(header, rows, [*header[:3], *_SETTINGS])
    return f"## Other measurements (%)\n\n{table}{notes.lines()}"


def _levels(runs: Sequence[Run]) -> str:
    notes = Notes()
    rows = []
    for dataset, split, choices, chosen in _group([run for run in runs if run.levels]):
        for level in range(1 + max(run.levels for run, _ in chosen.values())):
            rows.append(
                [
                    f"{dataset} {split}",
                    choices.experiment,
                    choices.tags,
                    choices.backbone,
                    join_different(f"{run.images:,}" for run, _ in chosen.values()),
                    "classes" if level == 0 else f"level {level}",
                    join_different(_count_classes(run, level) for run, _ in chosen.values()),
                    *_figures(chosen, level, notes),
                ]
            )
    if not rows:
        return ""
    words = ["data set, split", "experiment", "tags", "clip"]
    table = padded_table([*words, "images", "of", "number", *_FIGURES], rows, [*words, "of"])
    return f"## Classes, and the levels above them (%)\n\n{table}{notes.lines()}"


def _count_classes(run: Run, level: int) -> str:
    if level > run.levels:
        return ""
    per_class = (run.figures["levels"][level - 1] if level else run.figures).get("per_class", {})
    return str(len(per_class.keys() - {"background"} if run.stage != "tags" else per_class))


def _rare_classes(runs: Sequence[Run]) -> str:
    rows = []
    for dataset, split, choices, chosen in _group([run for run in runs if run.stage == "tags"]):
        run, _ = chosen["tags"]
        counted = _count_positives(run)
        if len(counted) < _FEWEST_CLASSES:
            continue
        quarters = [counted[len(counted) * i // 4 : len(counted) * (i + 1) // 4] for i in range(4)]
        means = [sum(precision for _, precision in q) / len(q) for q in quarters]
        rows.append(
            [
                f"{dataset} {split}",
                choices.experiment,
                choices.tags,
                choices.backbone,
                f"{run.images:,}",
                str(len(counted)),
                *(
                    f"{percent(mean)} ({q[0][0]}–{q[-1][0]})"
                    for mean, q in zip(means, quarters, strict=True)
                ),
                _rank_correlation(counted),
            ]
        )
    if not rows:
        return ""
    words = ["data set, split", "experiment", "tags", "clip"]
    header = [*words, "images", "classes", *_QUARTERS, "Spearman's ρ"]
    explanation = (
        "Mean AP (%) in quarters of the classes by how many images show them (in brackets), and the"
        " rank correlation of the two. Classes that no image shows are left out. Chance gives a"
        " rare class less, since its AP is then the share of images that show it.\n"
    )
    return f"## Rare classes\n\n{explanation}\n{padded_table(header, rows, words)}"


def _count_positives(run: Run) -> list[tuple[int, float]]:
    """Returns the number of images and the AP of every class that occurs, the rarest first."""
    per_class = run.figures.get("per_class")
    if not isinstance(per_class, dict):
        return []
    facts = [value for value in per_class.values() if isinstance(value, dict)]
    counted = [(as_number(f.get("positives")), as_number(f.get("ap"))) for f in facts]
    # Sorted by the number alone: the order of APs among equals would bend the quarters.
    return sorted(
        ((int(n), ap) for n, ap in counted if n and ap is not None), key=lambda pair: pair[0]
    )


def _rank_correlation(counted: Sequence[tuple[int, float]]) -> str:
    positives, precisions = zip(*counted, strict=True)
    if len(set(positives)) == 1 or len(set(precisions)) == 1:
        return percent_or_blank(None)
    # Only needed here, and slow to import.
    from scipy.stats import spearmanr

    return f"{spearmanr(positives, precisions).statistic:+.2f}"
