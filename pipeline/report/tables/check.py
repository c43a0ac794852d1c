"""Compares this machine's runs with the published figures (``--check``)."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.report.tables.grouping import describe_images
from pipeline.report.tables.markdown import Table
from pipeline.report.tables.published import Figure, load_published
from pipeline.report.tables.runs import METRIC_LABELS, MeasuredRun

TOLERANCE = 0.2
"""Percentage points that a figure may differ from the published one."""

_REQUIRED = {"clip": "vit_b16", "pretrained": "openai", "compat": "released", "precision": "fp32"}
"""The choices of a run whose figures are to be the published ones."""


def write_check(runs: Sequence[MeasuredRun]) -> tuple[str, str]:
    """Compares the runs of published experiments with the published figures.

    Returns the table as Markdown, and a sentence on the figures that are too far away, or "". Of an
    experiment's runs in one file, the latest counts. Raises a UserError if none can be compared.
    """
    figures = [figure for table in load_published() for figure in table.figures]
    compared: dict[tuple[Path, int], tuple[MeasuredRun, Figure]] = {}
    reasons: dict[str, None] = {}
    for run in runs:
        for index, figure in enumerate(figures):
            reproduces = (run.about.experiment, run.stage) == (figure.experiment, figure.stage)
            if not figure.experiment or not reproduces or run.value_in(figure.column) is None:
                continue
            about, images = run.about.plain, describe_images(run.images, figure.column.split.images)
            obstacles = [images] if images else []
            others = (name for name, required in _REQUIRED.items() if about.get(name) != required)
            obstacles += [f"{name}={about.get(name)}" for name in others]
            network = run.about.segmenter
            if figure.row.segmenter and network != figure.row.segmenter:
                obstacles.append(f"segmenter={network}, not {figure.row.segmenter}")
            if obstacles := obstacles + run.changes():
                result = f"{figure.experiment}, {run.split} {run.kind.name} {run.key}"
                reasons[f"{result}: {'; '.join(obstacles)}"] = None
            else:
                compared[run.file, index] = run, figure
    if not compared:
        others = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        why = f"; not compared: {next(iter(reasons))}{others}" if reasons else ""
        names = ", ".join(sorted({figure.experiment for figure in figures} - {""}))
        raise UserError(
            f"nothing to check: run experiment=… first, on all images (there are {names}){why}"
        )
    chosen = sorted(compared.values(), key=lambda pair: pair[0].order)
    rows = [_row(run, figure) for run, figure in chosen]
    rows.sort(key=lambda row: (row["experiment"], row["figure"]))
    words = ["experiment", "figure", "verdict", "commit", "file", "notes"]
    cells = [[*row.values()] for row in rows]
    title = "Published figures, reproduced or not"
    parts = [Table([*rows[0]], cells, words, title).markdown("#")]
    if reasons:
        parts += ["Not compared:\n", "".join(f"- {reason}\n" for reason in reasons)]
    far = [f"{row['figure']} by {row['difference']}" for row in rows if "**" in row["verdict"]]
    sentence = (
        f"{len(far)} {'figure is' if len(far) == 1 else 'figures are'} further than {TOLERANCE}"
        f" points from the published: {', '.join(far)}"
    )
    return "\n".join(parts), sentence if far else ""


def _row(run: MeasuredRun, figure: Figure) -> dict[str, str]:
    value = 100 * run.value_in(figure.column)
    difference, rerun = value - figure.value, figure.row.rerun.get(figure.column.name)
    agrees = abs(difference) <= TOLERANCE + 1e-9  # of rounding
    name = f"{run.dataset_split} {run.kind.name} {METRIC_LABELS[figure.column.metric]}"
    level = f", level {figure.column.level}" if figure.column.level else ""
    return {
        "experiment": figure.experiment,
        "figure": name + level,
        "images": f"{run.images:,}",
        "ours": f"{value:.2f}",
        "published": f"{figure.value:.1f}",
        "difference": f"{difference:+.2f}",
        "authors' re-run": "" if rerun is None else f"{rerun:.1f}",
        "verdict": f"within {TOLERANCE}" if agrees else f"**further than {TOLERANCE}**",
        "commit": run.about.commit,
        "file": str(run.file),
        "notes": "; ".join(run.notes()),
    }
