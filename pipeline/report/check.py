"""Whether the published figures come out of this machine's runs (``--check``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.report.configurations import find_changes
from pipeline.report.markdown import padded_table
from pipeline.report.published import Figure, PublishedTable, published_figures
from pipeline.report.runs import Run, describe_images

TOLERANCE = 0.2
"""Percentage points."""

_ROUNDING = 1e-9
_CLAIM = {"clip": "vit_b16", "pretrained": "openai", "compat": "released", "precision": "fp32"}
"""What a run must have been made with for its figures to be the published ones."""

_STAGES = {"tags": "tags", "cams": "maps", "masks": "masks", "predictions": "segmenter"}


@dataclass(frozen=True)
class Comparison:
    """One of our figures beside the published one.

    Attributes:
        run: ours.
        figure: theirs.
        ours: percent.
    """

    run: Run
    figure: Figure
    ours: float

    @property
    def difference(self) -> float:
        """Ours minus theirs, in percentage points."""
        return self.ours - self.figure.value

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= TOLERANCE + _ROUNDING

    @property
    def name(self) -> str:
        """The figure in a few words."""
        column = self.figure.column
        level = f", level {column.level}" if column.level else ""
        split = f"{self.run.dataset} {self.run.split}"
        return f"{split} {_STAGES[self.run.stage]} {column.metric_label}{level}"


def write_check(tables: tuple[PublishedTable, ...], runs: Sequence[Run]) -> tuple[str, str]:
    """Compares the runs of published experiments with the published figures.

    Of runs of one experiment in one file, the latest counts.

    Args:
        tables: the published figures.
        runs: everything that was measured, oldest first.

    Returns:
        The table as Markdown, and a sentence on what is too far away; "" where nothing is.

    Raises:
        UserError: nothing can be compared.
    """
    figures = [figure for figure in published_figures(tables) if figure.experiment]
    experiments = sorted({figure.experiment for figure in figures})
    compared: dict[tuple[Path, int], Comparison] = {}
    reasons: dict[str, None] = {}
    for run in runs:
        if run.choices.experiment not in experiments:
            continue
        for index, figure in enumerate(figures):
            value = _value(run, figure)
            if value is None:
                continue
            if obstacles := _obstacles(run, figure):
                reasons[f"{_describe(run)}: {'; '.join(obstacles)}"] = None
            else:
                compared[run.file, index] = Comparison(run, figure, 100 * value)
    if not compared:
        others = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        why = f"; not compared: {next(iter(reasons))}{others}" if reasons else ""
        names = ", ".join(experiments)
        raise UserError(
            f"nothing to check: run experiment=… first, on all images (there are {names}){why}"
        )
    chosen = sorted(compared.values(), key=lambda c: (c.figure.experiment, c.name, c.run.order))
    far = [c for c in chosen if not c.agrees]
    parts = ["# Published figures, reproduced or not\n", _table(chosen)]
    if reasons:
        parts += ["Not compared:\n", "".join(f"- {reason}\n" for reason in reasons)]
    if not far:
        return "\n".join(parts), ""
    noun = "figure is" if len(far) == 1 else "figures are"
    list_of = ", ".join(f"{c.name} by {c.difference:+.2f}" for c in far)
    sentence = f"{len(far)} {noun} further than {TOLERANCE} points from the published: {list_of}"
    return "\n".join(parts), sentence


def _value(run: Run, figure: Figure) -> float | None:
    """Returns what a run has to hold against a figure, in [0, 1]; none where it is of another."""
    column = figure.column
    if run.choices.experiment != figure.experiment or run.stage != figure.stage:
        return None
    if (run.dataset, run.split) != (column.of.dataset, column.of.split):
        return None
    return run.value(column.metric, column.level)


def _obstacles(run: Run, figure: Figure) -> list[str]:
    """Returns why a run of the experiment cannot be compared with its figure."""
    images = describe_images(run.images, figure.column.of.images)
    found = [
        f"{k}={run.about.get(k)}" for k, wanted in _CLAIM.items() if run.about.get(k) != wanted
    ]
    network = run.about.get("segmenter", "")
    if figure.row.segmenter and network != figure.row.segmenter:
        found.append(f"segmenter={network}, not {figure.row.segmenter}")
    return [*([images] if images else []), *found, *find_changes(run)]


def _describe(run: Run) -> str:
    return f"{run.choices.experiment}, {run.split} {_STAGES[run.stage]} {run.key}"


def _table(compared: Sequence[Comparison]) -> str:
    header = ["experiment", "figure", "images", "ours", "published", "difference"]
    header += ["authors' re-run", "verdict", "commit", "file", "notes"]
    rows = []
    for comparison in compared:
        run, figure = comparison.run, comparison.figure
        agrees = f"within {TOLERANCE}" if comparison.agrees else f"**further than {TOLERANCE}**"
        rows.append(
            [
                figure.experiment,
                comparison.name,
                f"{run.images:,}",
                f"{comparison.ours:.2f}",
                f"{figure.value:.1f}",
                f"{comparison.difference:+.2f}",
                "" if figure.rerun is None else f"{figure.rerun:.1f}",
                agrees,
                run.commit,
                str(run.file),
                "; ".join(run.notes()),
            ]
        )
    return padded_table(header, rows, ["experiment", "figure", *header[-4:]])
