"""The published figures, as facts with their sources (``published.yaml``)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from pipeline.report.tables.configurations import compose

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Split:
    """A split of a data set as publications use it."""

    label: str
    dataset: str | None = None  # our name of the data set, if we have a reader
    split: str | None = None  # our name of the split
    images: Sequence[int] = ()  # numbers that make a whole split; empty if any number does
    positives: Mapping[int, str] = field(default_factory=dict)
    """The number of pairs of image and class → the convention that leads to it."""


@dataclass(frozen=True)
class Column:
    """A column of figures; ``name`` is unique in its table."""

    name: str
    label: str
    split: Split
    metric: str
    stage: str | None = None  # whose result is measured, if the rows do not say it
    level: int = 0  # 0 for the classes themselves, 1 for their parents
    command: str = ""  # the arguments of run_stage.py that lead to our figure


@dataclass(frozen=True)
class Line:
    """A kind of row of ours: its stage, if the columns do not say it, and its method's suffix."""

    stage: str | None = None
    label: str = ""
    optional: bool = False  # shown only if it was measured


@dataclass(frozen=True)
class Row:
    """The figures of one publication for one method: by columns, in percent."""

    method: str  # with the venue
    backbone: str  # the backbone or the network; "" if the source does not say
    supervision: str  # what it learns from, and whether its weights saw masks
    source: str
    figures: Mapping[str, float]
    rerun: Mapping[str, float] = field(default_factory=dict)  # when the authors ran it again
    experiments: Mapping[str, str] = field(default_factory=dict)  # ours that reproduce them
    stage: str | None = None  # our stage that it corresponds to, if the columns do not say it
    error: Sequence[float] = ()  # figures in circulation without a source; they are in no column


@dataclass(frozen=True)
class Figure:
    """One published figure, in percent, and our experiment that reproduces it, if any."""

    row: Row
    column: Column
    value: float
    experiment: str
    stage: str | None  # ours that it corresponds to


@dataclass(frozen=True)
class PublishedTable:
    """One table of the field, and which runs of ours belong into it."""

    name: str
    title: str
    metric: str  # of columns that name no other
    unit: str  # of all columns
    backbone: str  # the header above backbones or networks
    tags: Sequence[str]  # the sources of tags whose runs are comparable
    supervision: str  # what our runs learn from
    lines: Sequence[Line]  # our rows
    columns: Sequence[Column]
    rows: Sequence[Row]
    remark: str = ""  # a paragraph below the heading
    masks: str = "crf"  # the method of masks= whose runs are comparable
    ours: Mapping[str, str] = field(default_factory=dict)  # tags → our method, if not theirs

    @property
    def figures(self) -> Iterator[Figure]:
        """All figures of its rows."""
        columns = {column.name: column for column in self.columns}
        for row in self.rows:
            for name, value in row.figures.items():
                column, experiment = columns[name], row.experiments.get(name, "")
                yield Figure(row, column, float(value), experiment, row.stage or column.stage)


@cache
def load_published() -> tuple[PublishedTable, ...]:
    """Reads the published figures."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    splits = {name: Split(**values) for name, values in content["splits"].items()}
    tables = []
    for values in content["tables"]:
        lines, columns = [Line(**line) for line in values["lines"]], []
        stage = lines[0].stage if len(lines) == 1 else None
        for name, column in values["columns"].items():
            split = splits[column.get("split", name)]
            given = {"name": name, "label": split.label, "metric": values["metric"], "stage": stage}
            columns.append(Column(**{**given, **column, "split": split}))
        parts = {"lines": lines, "columns": columns, "rows": [Row(**row) for row in values["rows"]]}
        tables.append(PublishedTable(**{**values, **parts}))
    return tuple(tables)


@cache
def usual_methods() -> dict[str, str]:
    """Returns group → the method of the published rows."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["usual"]


@cache
def published_experiments() -> frozenset[str]:
    """Returns the names of our experiments that run publications again, with figures or without."""
    rows = (row for table in load_published() for row in table.rows)
    return frozenset(experiment for row in rows for experiment in row.experiments.values())


def remark_on_clip(preset: str, clip: str) -> str:
    """Returns a remark if the constants of a preset were chosen for another CLIP; "" if not.

    A preset is an experiment, as in ``experiment_name``, or a choice such as "tags=piaa_voc"; the
    name of the CLIP is that of ``clip.name``, or "" if none was used.
    """
    if not clip or not (experiment := _experiments().get(preset)):
        return ""
    chosen = compose(experiment)["clip"]["name"]
    if clip == chosen:
        return ""
    return f"the constants of {preset} were chosen for clip={chosen}, not for clip={clip}"


@cache
def _experiments() -> dict[str, str]:
    """Returns preset with published constants → the experiment that takes the CLIP for them."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    own = published_experiments().union(content["without_figures"])
    return {name: name for name in own} | content["choices"]
