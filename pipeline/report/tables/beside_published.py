"""The field's tables: the published rows, then ours, then the origin of each of our figures."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pipeline.configuration.registry import label_of
from pipeline.engine.kinds import MASKS, PREDICTIONS, TAGS
from pipeline.errors import command
from pipeline.report.tables.grouping import Shown, choose_run, describe_images, grouped
from pipeline.report.tables.markdown import Notes, Table
from pipeline.report.tables.published import PublishedTable, published_experiments, usual_methods
from pipeline.report.tables.runs import METRIC_LABELS, MeasuredRun, as_number

_PRESET = "preset"
"""Stands for the experiment in the choices of runs that have all settings of a published one."""

_OurRow = tuple[list[str], Mapping[str, Shown]]
"""The words left of the figures, and the run behind each column, by its name."""


class _Choices(NamedTuple):
    """What the runs of one of our rows have in common; rows are sorted by it."""

    is_other: bool  # than a published experiment
    experiment: str
    tags: str
    clip: str
    compat: str
    precision: str
    network: str
    extras: str  # methods that are not the usual ones
    line: int  # of the table


def write_comparison(table: PublishedTable, runs: Sequence[MeasuredRun]) -> str:
    """Returns a table of the field as Markdown; the runs of published experiments share a row."""
    notes = Notes()
    rows: list[list[str]] = []
    sources: dict[str, int] = {}  # → its number
    for row in table.rows:
        mark = f"[{sources.setdefault(row.source, len(sources) + 1)}]"
        for suffix, figures in (("", row.figures), (", authors' re-run", row.rerun)):
            cells = [f"{figures[c.name]:.1f}" if c.name in figures else "" for c in table.columns]
            if figures or not suffix:
                rows.append([row.method + suffix, row.backbone, row.supervision, *cells, mark])
    our_rows = _our_rows(table, runs)
    for words, shown in our_rows:
        cells = [
            shown[c.name].cell(c.metric, notes, c.level) if c.name in shown else ""
            for c in table.columns
        ]
        rows.append([*words, *cells, ""])
    words = [table.unit, table.backbone, "supervision"]
    header = [*words, *(column.label for column in table.columns), "source"]
    figures = Table(header, rows, words, table.title, table.remark, notes.paragraphs())
    parts = [figures.markdown(), "".join(f"{n}. {source}\n" for source, n in sources.items())]
    parts += _origins(table, our_rows)
    # The commands that fill our columns in which nothing was measured.
    measured = {name for _, shown in our_rows for name in shown}
    missing = [c for c in table.columns if c.command and c.name not in measured]
    lines = []
    for settings, columns in grouped(missing, lambda column: column.command).items():
        labels = dict.fromkeys(column.split.label for column in columns)
        lines.append(f"- {', '.join(labels)}: `{command()} {settings}`\n")
    parts += ["Not measured yet. To measure, run:\n", "".join(lines)] if lines else []
    return "\n".join(parts)


def _our_rows(table: PublishedTable, runs: Sequence[MeasuredRun]) -> list[_OurRow]:
    """Returns our rows, those of the published experiments first; blank ones without any."""
    cells: dict[_Choices, dict[str, list[MeasuredRun]]] = {}
    usual = usual_methods()
    for run in runs:
        experiment, masks = run.about.experiment, run.configuration
        if experiment in published_experiments():
            experiment = f"{experiment}, changed" if run.changes() else _PRESET
        about, tags = run.about, run.about.methods.get("tags", "")
        # Without the constants of its CRF it is the argmax of the CAMs, which nobody published.
        is_published = masks.get("method", "") == table.masks and masks.get("crf", True)
        if tags not in table.tags or (run.kind is MASKS and not is_published):
            continue
        network = about.segmenter if run.kind is PREDICTIONS else ""
        chosen = {group: about.methods.get(group) or name for group, name in usual.items()}
        extras = ", ".join(f"{g}={name}" for g, name in chosen.items() if name != usual[g])
        settings = run.backbone, about.compat, about.precision, network, extras
        choices = partial(_Choices, experiment != _PRESET, experiment, tags, *settings)
        for number, line in enumerate(table.lines):
            for column in table.columns:
                if run.stage == (line.stage or column.stage) and run.value_in(column) is not None:
                    row = cells.setdefault(choices(number), {})
                    row.setdefault(column.name, []).append(run)
    full_sizes = {column.name: column.split.images for column in table.columns}
    recorded = {r.about.methods.get("tags"): r.about.labels.get("tags") for r in runs}

    def label(tags: str) -> str:
        return table.ours.get(tags) or recorded.get(tags) or label_of(TAGS.group, tags)

    rows = []
    for row in sorted(cells):
        backbone = ", ".join(filter(None, [row.clip, row.network]))
        settings = [row.experiment or "no experiment", row.extras, row.compat, row.precision]
        method = label(row.tags) + table.lines[row.line].label
        words = [
            f"ours: {method} ({', '.join(filter(None, settings))})",
            row.network if table.backbone == "network" else backbone,
            "as the file's" if row.tags == "file" else table.supervision,
        ]
        shown = {n: choose_run(several, full_sizes[n]) for n, several in cells[row].items()}
        rows.append((words, shown))
    if all(row.is_other for row in cells):
        method = label(table.tags[0])
        rows[:0] = [
            ([f"ours: {method}{line.label}", "", table.supervision], {})
            for line in table.lines
            if not line.optional
        ]
    return rows


def _origins(table: PublishedTable, our_rows: Sequence[_OurRow]) -> list[str]:
    cells = [(shown[c.name], c) for _, shown in our_rows for c in table.columns if c.name in shown]
    rows, choices = [], (*usual_methods(), "compat", "precision", "commit")
    for same in grouped(cells, lambda cell: cell[0].run.order).values():
        origin, columns = same[0][0], [column for _, column in same]
        run, column = origin.run, columns[0]
        values = [f"{origin.figure(c.metric, c.level)} {METRIC_LABELS[c.metric]}" for c in columns]
        refined = " after the CRF" if run.kind is MASKS and table.masks == "crf" else ""
        level = f", level {column.level}" if column.level else ""
        remarks = [describe_images(run.images, column.split.images).split(":")[0], *run.notes()]
        if run.about.experiment in published_experiments():
            remarks += run.changes()
        if run.has_tags:
            classes = run.figures.get("per_class", {}).values()
            positives = int(sum(as_number(each.get("positives")) or 0 for each in classes))
            remarks.append(column.split.positives.get(positives, ""))
        if run.kind is PREDICTIONS:
            weights = (run.configuration.get("segmenter") or {}).get("pretrained")
            name = str(weights).rsplit("/", 1)[-1] if weights else "nothing"
            remarks.append(f"segmenter starts from {name}")
        rows.append(
            {
                "figure": ", ".join(values),
                "of": f"{run.kind.name}{refined}{level}",
                "split": run.dataset_split,
                "images": f"{run.images:,}",
                "experiment": run.about.experiment,
                "clip": run.backbone,
                **{name: run.about.plain.get(name, "") for name in choices},
                "notes": "; ".join(filter(None, remarks)),
            }
        )
    if not rows:
        return []
    words = rows[0].keys() - {"figure", "images"}
    caption, cells = "Where our figures are from:", [[*row.values()] for row in rows]
    return [Table([*rows[0]], cells, words, caption=caption).markdown()]
