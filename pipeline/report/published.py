"""The published figures, as facts with their sources (``published.yaml``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PUBLISHED = Path(__file__).with_name("published.yaml")
STAGES = ("tags", "cams", "masks", "predictions")


@dataclass(frozen=True)
class Split:
    """A split of a data set as publications use it.

    Attributes:
        label: its name in a table.
        dataset: our name of the data set; none where we have no reader.
        split: our name of the split.
        images: how many images it has, by any of the lists in use; empty: any number is whole.
        positives: the number of pairs of image and class → the convention that leads to it.
    """

    label: str
    dataset: str | None = None
    split: str | None = None
    images: tuple[int, ...] = ()
    positives: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        name: unique in its table.
        label: its header.
        of: the split that is measured.
        metric: what is measured, by its name in ``metrics.json``.
        metric_label: its name for readers.
        stage: whose result is measured; none where rows say it.
        level: 0 for the classes themselves, 1 for their parents.
        command: the arguments of ``run_stage.py`` that lead to our figure; "" where none do.
    """

    name: str
    label: str
    of: Split
    metric: str
    metric_label: str
    stage: str | None
    level: int
    command: str


@dataclass(frozen=True)
class Line:
    """A kind of row of ours.

    Attributes:
        stage: whose results it shows; none where columns say it.
        label: what follows the method's name.
        optional: whether it is shown only where it was measured.
    """

    stage: str | None = None
    label: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Row:
    """What a publication says of one method.

    Attributes:
        method: its name, with the venue.
        backbone: the backbone or the network; "" where the source does not say.
        supervision: what it learns from, and whether its weights saw masks.
        source: where the figures stand.
        figures: column → percent.
        rerun: column → percent that the authors got when they ran their code again.
        experiments: column → the experiment of ours that reproduces it.
        stage: the stage of ours that it stands beside, where columns do not say it.
        segmenter: the network that a comparison takes; "" where there is none.
        error: figures in circulation that have no primary source; they are in no column.
    """

    method: str
    backbone: str
    supervision: str
    source: str
    figures: Mapping[str, float]
    rerun: Mapping[str, float] = field(default_factory=dict)
    experiments: Mapping[str, str] = field(default_factory=dict)
    stage: str | None = None
    segmenter: str = ""
    error: tuple[float, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """One table of the field, and which runs of ours belong into it.

    Attributes:
        name: unique.
        title: its heading.
        unit: what all columns hold, or "%" where they differ.
        backbone: the header above backbones or networks.
        tags: the sources of tags whose runs are comparable.
        supervision: what our runs in it learn from.
        lines: our rows.
        columns: the figures' columns.
        rows: the published rows.
        remark: a paragraph below the heading.
    """

    name: str
    title: str
    unit: str
    backbone: str
    tags: tuple[str, ...]
    supervision: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remark: str


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        table: the name of its table.
        row: method, backbone, supervision and source.
        column: data set, split and metric.
        stage: the stage of ours that it stands beside; none where there is none.
        value: percent.
        rerun: percent, the authors' re-run; none where the source has none.
        experiment: the experiment of ours that reproduces it; "" where there is none.
    """

    table: str
    row: Row
    column: Column
    stage: str | None
    value: float
    rerun: float | None
    experiment: str


@cache
def load_published(path: Path = PUBLISHED) -> tuple[PublishedTable, ...]:
    """Reads and checks the published figures.

    Raises:
        ValueError: a figure that occurs twice, that is no percentage, or that has no source.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    splits = {
        name: Split(**{**values, "images": tuple(values.get("images", ()))})
        for name, values in content["splits"].items()
    }
    tables = tuple(_read_table(values, splits) for values in content["tables"])
    for table in tables:
        _check(table)
    return tables


def published_figures(tables: tuple[PublishedTable, ...]) -> Iterator[Figure]:
    """Yields every figure of the tables."""
    for table in tables:
        by_name = {column.name: column for column in table.columns}
        default = table.lines[0].stage if len(table.lines) == 1 else None
        for row in table.rows:
            for name, value in row.figures.items():
                column = by_name[name]
                yield Figure(
                    table=table.name,
                    row=row,
                    column=column,
                    stage=row.stage or column.stage or default,
                    value=float(value),
                    rerun=row.rerun.get(name),
                    experiment=row.experiments.get(name, ""),
                )


def _read_table(values: Mapping[str, Any], splits: Mapping[str, Split]) -> PublishedTable:
    metrics = values["metric"]
    columns = []
    for name, column in values["columns"].items():
        of = splits[column.get("of", name)]
        metric = column.get("metric", next(iter(metrics)))
        columns.append(
            Column(
                name=name,
                label=column.get("label", of.label),
                of=of,
                metric=metric,
                metric_label=metrics[metric],
                stage=column.get("stage"),
                level=column.get("level", 0),
                command=column.get("command", ""),
            )
        )
    rows = [Row(**{**row, "error": tuple(row.get("error", ()))}) for row in values["rows"]]
    return PublishedTable(
        name=values["name"],
        title=values["title"],
        unit=f"{next(iter(metrics.values()))}, %" if len(metrics) == 1 else "%",
        backbone=values["backbone"],
        tags=tuple(values["tags"]),
        supervision=values["supervision"],
        lines=tuple(Line(**line) for line in values["lines"]),
        columns=tuple(columns),
        rows=tuple(rows),
        remark=values.get("remark", ""),
    )


def _check(table: PublishedTable) -> None:
    """Refuses what a typing error in the file would lead to.

    Raises:
        ValueError: names the row.
    """
    names = {column.name for column in table.columns}
    repeated = [k for k, n in Counter((r.method, r.backbone) for r in table.rows).items() if n > 1]
    if repeated:
        raise ValueError(f"{table.name}: the row {repeated[0]} occurs twice")
    for row in table.rows:
        where = f"{table.name}, {row.method}"
        if not row.source or not (row.supervision or row.error):
            raise ValueError(f"{where}: source and supervision are needed")
        if unknown := (row.figures.keys() | row.rerun.keys() | row.experiments.keys()) - names:
            raise ValueError(f"{where}: there is no column {min(unknown)}")
        if unpublished := (row.rerun.keys() | row.experiments.keys()) - row.figures.keys():
            raise ValueError(f"{where}: {min(unpublished)} has no published figure")
        for value in (*row.figures.values(), *row.rerun.values(), *row.error):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{where}: {value!r} is no number")
            if not 0 <= value <= 100:
                raise ValueError(f"{where}: {value} is not between 0 and 100")
    for stage in (*(r.stage for r in table.rows), *(c.stage for c in table.columns)):
        if stage not in (None, *STAGES):
            raise ValueError(f"{table.name}: there is no stage {stage}")
