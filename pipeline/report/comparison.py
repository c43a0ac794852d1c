"""The field's tables: the published rows, then ours, then where each figure of ours is from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.configurations import find_changes
from pipeline.report.markdown import Notes, padded_table, percent
from pipeline.report.published import Column, Line, PublishedTable, Row
from pipeline.report.runs import MAIN_METRIC, Choices, Run, as_number, choose_run, describe_images

PRESET = "preset"
"""Stands for the experiment in the choices of runs that have all settings of a published one."""

COMMAND = "python tools/run_stage.py"
_METHODS = {
    "tagclip": "TagCLIP",
    "clip": "CLIP, class token",
    "file": "tags of a file",
    "ground_truth": "CLIP-ES",
}
_STAGES = {
    "tags": "tags",
    "cams": "maps",
    "masks": "masks after the CRF",
    "predictions": "segmenter",
}
_ORIGIN = ("figure", "of", "split", "images", "experiment", "clip", "compat", "precision", "commit")


@dataclass(frozen=True)
class _Ours:
    """A row of ours: what stands left of the figures, and the run behind each column."""

    label: str
    backbone: str
    supervision: str
    runs: dict[str, tuple[Run, int]]


def write_comparison(
    table: PublishedTable, runs: Sequence[Run], published_experiments: Collection[str]
) -> str:
    """Returns a table of the field as Markdown.

    Args:
        table: the published rows, and which runs of ours belong beside them.
        runs: everything that was measured.
        published_experiments: the experiments that reproduce published figures; they share a row.
    """
    notes = Notes()
    sources: dict[str, int] = {}
    rows = [cells for row in table.rows for cells in _published_rows(table, row, sources)]
    ours = _our_rows(table, runs, published_experiments)
    rows += [_our_cells(table, row, notes) for row in ours]
    labels = [column.label for column in table.columns]
    header = [table.unit, table.backbone, "supervision", *labels, "source"]
    parts = [
        f"## {table.title}\n",
        *([f"{table.remark}\n"] if table.remark else []),
        padded_table(header, rows, header[:3]) + notes.lines(),
        "".join(f"{number}. {source}\n" for source, number in sources.items()),
        *_origins(table, ours, published_experiments),
        *_commands(table, ours),
    ]
    return "\n".join(parts)


def is_shown(table: PublishedTable, run: Run) -> bool:
    """Tells whether a table shows the figure that stands for a run."""
    columns = [column for column in table.columns if column.metric == MAIN_METRIC[run.stage]]
    return any(_matches(table, line, column, run) for line in table.lines for column in columns)


def _published_rows(
    table: PublishedTable, row: Row, sources: dict[str, int]
) -> Iterable[list[str]]:
    mark = f"[{sources.setdefault(row.source, len(sources) + 1)}]"
    variants = [(row.method, row.figures), (f"{row.method}, authors' re-run", row.rerun)]
    for method, figures in variants:
        if method == row.method or figures:
            values = [f"{figures[c.name]:.1f}" if c.name in figures else "" for c in table.columns]
            yield [method, row.backbone, row.supervision, *values, mark]


def _matches(table: PublishedTable, line: Line, column: Column, run: Run) -> bool:
    """Tells whether a run belongs into the cell of a line and a column."""
    if (run.dataset, run.split) != (column.of.dataset, column.of.split):
        return False
    if run.stage != (line.stage or column.stage) or run.choices.tags not in table.tags:
        return False
    # Masks that are the maps' argmax are no row of their own in any publication.
    if run.stage == "masks" and not run.configuration.get("crf"):
        return False
    return run.value(column.metric, column.level) is not None


def _our_rows(
    table: PublishedTable, runs: Sequence[Run], published_experiments: Collection[str]
) -> list[_Ours]:
    """Returns our rows: those of the published experiments first, even where nothing was run."""
    cells: dict[tuple[Choices, str], dict[tuple[Line, str], list[Run]]] = {}
    for run in runs:
        choices = run.choices
        if choices.experiment in published_experiments:
            changed = f"{choices.experiment}, changed" if find_changes(run) else PRESET
            choices = choices._replace(experiment=changed)
        for line in table.lines:
            for column in table.columns:
                if _matches(table, line, column, run):
                    network = run.about.get("segmenter", "") if run.stage == "predictions" else ""
                    row = cells.setdefault((choices, network), {})
                    row.setdefault((line, column.name), []).append(run)
    rows = []
    whole = {column.name: column.of.images for column in table.columns}
    found = sorted(cells, key=lambda key: (key[0].experiment != PRESET, *key[0], key[1]))
    for choices, network in found:
        for line in table.lines:
            chosen = {
                name: choose_run(several, whole[name])
                for (of, name), several in cells[choices, network].items()
                if of == line
            }
            if chosen:
                backbone = choices.backbone
                if table.backbone == "network":
                    backbone = network
                elif network:
                    backbone = f"{backbone}, {network}"
                supervision = "as the file's" if choices.tags == "file" else table.supervision
                rows.append(_Ours(_label(choices, line), backbone, supervision, chosen))
    if not any(choices.experiment == PRESET for choices, _ in found):
        method = _METHODS[table.tags[0]]
        blank = [
            _Ours(f"ours: {method}{line.label}", "", table.supervision, {})
            for line in table.lines
            if not line.optional
        ]
        rows = blank + rows
    return rows


def _label(choices: Choices, line: Line) -> str:
    method = _METHODS.get(choices.tags, choices.tags) + line.label
    settings = [choices.experiment or "no experiment", choices.compat, choices.precision]
    return f"ours: {method} ({', '.join(filter(None, settings))})"


def _our_cells(table: PublishedTable, row: _Ours, notes: Notes) -> list[str]:
    values = []
    for column in table.columns:
        if column.name not in row.runs:
            values.append("")
            continue
        run, several = row.runs[column.name]
        remarks = [describe_images(run.images, column.of.images)]
        if several > 1:
            remarks.append(f"latest of {several}")
        remark = ", ".join(filter(None, remarks))
        value = percent(run.value(column.metric, column.level))
        value += "".join(notes.mark(note) for note in run.notes())
        values.append(f"{value} ({remark})" if remark else value)
    return [row.label, row.backbone, row.supervision, *values, ""]


def _origins(
    table: PublishedTable, ours: Sequence[_Ours], published_experiments: Collection[str]
) -> list[str]:
    """Returns the table that says of every figure of ours where it is from."""
    found: dict[int, tuple[Run, list[Column]]] = {}
    for row in ours:
        for column in table.columns:
            if column.name in row.runs:
                run, _ = row.runs[column.name]
                found.setdefault(run.order, (run, []))[1].append(column)
    rows = []
    for run, columns in found.values():
        values = [f"{percent(run.value(c.metric, c.level))} {c.metric_label}" for c in columns]
        level = columns[0].level
        choices = run.choices
        rows.append(
            [
                ", ".join(values),
                _STAGES[run.stage] + (f", level {level}" if level else ""),
                f"{run.dataset} {run.split}",
                f"{run.images:,}",
                choices.experiment,
                choices.backbone,
                choices.compat,
                choices.precision,
                run.commit,
                "; ".join(_remarks(run, columns[0], published_experiments)),
            ]
        )
    if not rows:
        return []
    header = [*_ORIGIN, "notes"]
    text = [name for name in header if name not in ("figure", "images")]
    return ["Where our figures are from:\n", padded_table(header, rows, text)]


def _remarks(run: Run, column: Column, published_experiments: Collection[str]) -> list[str]:
    """Returns what a reader has to know before comparing a figure of ours with the others."""
    remarks = [describe_images(run.images, column.of.images).split(":")[0], *run.notes()]
    if run.choices.experiment in published_experiments:
        remarks += find_changes(run)
    if run.stage == "tags":
        remarks.append(column.of.positives.get(_count_positives(run), ""))
    if run.stage == "predictions":
        remarks.append(f"segmenter starts from {run.initial_weights or 'nothing'}")
    return [remark for remark in remarks if remark]


def _count_positives(run: Run) -> int:
    """Returns how many pairs of image and class the ground truth of a tagging run has."""
    per_class = run.figures.get("per_class")
    facts = per_class.values() if isinstance(per_class, dict) else ()
    counts = (as_number(f.get("positives")) for f in facts if isinstance(f, dict))
    return int(sum(filter(None, counts)))


def _commands(table: PublishedTable, ours: Sequence[_Ours]) -> list[str]:
    """Returns the commands that fill our columns in which nothing was measured."""
    measured = {name for row in ours for name in row.runs}
    commands: dict[str, list[str]] = {}
    for column in table.columns:
        if column.command and column.name not in measured:
            commands.setdefault(column.command, []).append(column.of.label)
    if not commands:
        return []
    lines = [
        f"- {', '.join(dict.fromkeys(labels))}: `{COMMAND} {command}`\n"
        for command, labels in commands.items()
    ]
    return ["Not measured here yet; this would:\n", "".join(lines)]
