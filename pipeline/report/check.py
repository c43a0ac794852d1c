"""Whether this machine's runs reproduce the published figures (``--check``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.report.configurations import find_changes
from pipeline.report.markdown import padded_table
from pipeline.report.published import Figure, PublishedTable, published_figures
from pipeline.report.runs import STAGE_NAMES, Run, describe_images

TOLERANCE = 0.2
"""Percentage points."""

_ROUNDING = 1e-9
_REQUIRED = {"clip": "vit_b16", "pretrained": "openai", "compat": "released", "precision": "fp32"}
"""The choices of a run whose figures are to be the published ones."""


@dataclass(frozen=True)
class _Comparison:
    """One of our figures beside the published one; ``own`` is in percent."""

    run: Run
    figure: Figure
    own: float

    @property
    def difference(self) -> float:
        """Ours minus theirs, in percentage points."""
        return self.own - self.figure.value

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
        return f"{split} {STAGE_NAMES[self.run.stage]} {column.metric_label}{level}"

    def cells(self) -> dict[str, str]:
        """Returns its row of the table."""
        figure, run = self.figure, self.run
        return {
            "experiment": figure.experiment,
            "figure": self.name,
            "images": f"{run.images:,}",
            "ours": f"{self.own:.2f}",
            "published": f"{figure.value:.1f}",
            "difference": f"{self.difference:+.2f}",
            "authors' re-run": "" if figure.rerun is None else f"{figure.rerun:.1f}",
            "verdict": f"within {TOLERANCE}" if self.agrees else f"**further than {TOLERANCE}**",
            "commit": run.commit,
            "file": str(run.file),
            "notes": "; ".join(run.notes()),
        }


def write_check(tables: tuple[PublishedTable, ...], runs: Sequence[Run]) -> tuple[str, str]:
    """Compares the runs of published experiments with the published figures.

    Of several runs of one experiment in one file, the latest counts.

    Args:
        tables: the published figures.
        runs: everything that was measured, oldest first.

    Returns:
        The table as Markdown, and a sentence on the figures that are too far away, or "".

    Raises:
        UserError: nothing can be compared.
    """
    figures = [figure for figure in published_figures(tables) if figure.experiment]
    compared: dict[tuple[Path, int], _Comparison] = {}
    reasons: dict[str, None] = {}
    for run in runs:
        for index, figure in enumerate(figures):
            value = _value(run, figure)
            if value is None:
                continue
            if obstacles := _obstacles(run, figure):
                name = f"{figure.experiment}, {run.split} {STAGE_NAMES[run.stage]} {run.key}"
                reasons[f"{name}: {'; '.join(obstacles)}"] = None
            else:
                compared[run.file, index] = _Comparison(run, figure, 100 * value)
    if not compared:
        others = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        why = f"; not compared: {next(iter(reasons))}{others}" if reasons else ""
        names = ", ".join(sorted({figure.experiment for figure in figures}))
        raise UserError(
            f"nothing to check: run experiment=… first, on all images (there are {names}){why}"
        )
    chosen = sorted(compared.values(), key=lambda c: (c.figure.experiment, c.name, c.run.order))
    words = ["experiment", "figure", "verdict", "commit", "file", "notes"]
    rows = [comparison.cells() for comparison in chosen]
    table = padded_table(rows[0], map(dict.values, rows), words)
    parts = ["# Published figures, reproduced or not\n", table]
    if reasons:
        parts += ["Not compared:\n", "".join(f"- {reason}\n" for reason in reasons)]
    far = [f"{c.name} by {c.difference:+.2f}" for c in chosen if not c.agrees]
    sentence = (
        f"{len(far)} {'figure is' if len(far) == 1 else 'figures are'} further than {TOLERANCE}"
        f" points from the published: {', '.join(far)}"
    )
    return "\n".join(parts), sentence if far else ""


def _value(run: Run, figure: Figure) -> float | None:
    """Returns a run's figure in [0, 1], or none if the run does not reproduce the published one."""
    column = figure.column
    reproduced = (figure.experiment, figure.stage, column.of.dataset, column.of.split)
    if (run.choices.experiment, run.stage, run.dataset, run.split) != reproduced:
        return None
    return run.value(column.metric, column.level)


def _obstacles(run: Run, figure: Figure) -> list[str]:
    """Returns why a run of the experiment cannot be compared with its figure."""
    images = describe_images(run.images, figure.column.of.images)
    obstacles = [images] if images else []
    for name, required in _REQUIRED.items():
        if run.about.get(name) != required:
            obstacles.append(f"{name}={run.about.get(name)}")
    network = run.about.get("segmenter", "")
    if figure.row.segmenter and network != figure.row.segmenter:
        obstacles.append(f"segmenter={network}, not {figure.row.segmenter}")
    return obstacles + find_changes(run)
