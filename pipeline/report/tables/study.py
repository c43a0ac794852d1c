"""One experiment that was run several times with different settings, as a table of the settings.

Its runs have one ``experiment_name=NAME``; comparing their configurations finds what differs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.configuration.registry import quirks
from pipeline.engine.kinds import PREDICTIONS, kinds
from pipeline.errors import UserError
from pipeline.evaluation.metrics import as_number
from pipeline.files.atomic import canonical_json
from pipeline.report.tables.configurations import describe_value, readable, short_name, varying
from pipeline.report.tables.grouping import grouped
from pipeline.report.tables.markdown import Table, highest, percent
from pipeline.report.tables.runs import METRIC_LABELS, MeasuredRun

_MAX_ROWS = 12  # with more runs, pairs of blocks are easier to read as a matrix than as rows

_CHOICES = {
    "clip": ("model", "weights", "mean", "std", "quick_gelu"),
    "pretrained": ("weights", "mean", "std", "quick_gelu"),
    "tags": ("method", "code"),
    "compat": (),  # all quirks
    "precision": ("precision",),
    "segmenter": ("segmenter.",),
}
"""A choice with a common name → the settings that it stands for, or the group of them."""


def write_study(name: str, runs: Sequence[MeasuredRun]) -> str:
    """Returns a table for each data set, stage and split of an experiment, as Markdown.

    Raises a UserError if no run names the experiment.
    """

    def place(run: MeasuredRun) -> tuple[str, int, str]:
        return run.about.dataset, kinds().index(run.kind), run.split

    if named := [run for run in runs if run.about.experiment == name]:
        groups = [group for _, group in sorted(grouped(named, place).items())]
        tables = [_table([*{run.key: run for run in group}.values()]) for group in groups]
        return "\n".join([f"# {name}\n", *(table.markdown() for table in tables)])
    known = sorted({run.about.experiment for run in runs} - {""})
    there = f"those that exist are {', '.join(known)}" if known else "no run names one yet"
    raise UserError(
        f"no run belongs to an experiment {name}: {there}; name one with run_stage.py …"
        " experiment_name=NAME"
    )


def _table(runs: list[MeasuredRun]) -> Table:
    """Returns the table of the latest runs of one data set, stage and split."""
    title = f"{runs[0].dataset_split}, {runs[0].kind.name}"
    # Only predictions depend on the segmenter, but every run names one.
    stands_for = {**_CHOICES, "compat": tuple(quirks())}
    names = [name for name in stands_for if name != "segmenter" or runs[0].kind is PREDICTIONS]
    about = [run.about.plain for run in runs]
    choices = {name: [canonical_json(each.get(name, "")) for each in about] for name in names}
    choices = {name: values for name, values in choices.items() if len(set(values)) > 1}
    configurations = [readable(run.configuration, run.figures.get("legend", {})) for run in runs]
    settings = varying(configurations, choices, stands_for)
    return _matrix(title, runs, settings) or _rows(title, runs, settings)


def _matrix(
    title: str, runs: Sequence[MeasuredRun], settings: Mapping[str, Sequence[str]]
) -> Table | None:
    """Returns a table of the first block by the last; none unless pairs alone differ."""
    if len(settings) != 1 or len(runs) <= _MAX_ROWS:
        return None
    [(name, texts)] = settings.items()
    pairs = [json.loads(text or "null") for text in texts]
    if not all(isinstance(pair, list) and [*map(type, pair)] == [int, int] for pair in pairs):
        return None
    label, values = next(iter(_metrics(runs).items()))
    figures = dict(zip(map(tuple, pairs), _embolden(values)))
    firsts, lasts = (sorted({*ends}) for ends in zip(*pairs))
    rows = [[str(f), *(figures.get((f, last), "") for last in lasts)] for f in firsts]
    images = " / ".join(dict.fromkeys(f"{run.images:,}" for run in runs))
    corner, caption = f"{name}: first ↓ last →", f"{label}, %, {images} images."
    return Table([corner, *map(str, lasts)], rows, [corner], title, caption)


def _rows(title: str, runs: Sequence[MeasuredRun], settings: dict[str, list[str]]) -> Table:
    """Returns a table with a row for each run."""
    if len(set(zip(*settings.values()))) < len(runs):
        settings["key"] = [canonical_json(run.key) for run in runs]
    columns = {
        short_name(name, settings): [describe_value(value) for value in values]
        for name, values in settings.items()
    }
    words = {*columns, "notes"}
    images = [f"{run.images:,}" for run in runs]
    same_images = len(set(images)) == 1
    if not same_images:
        columns["images"] = images
    columns |= {label: _embolden(values) for label, values in _metrics(runs).items()}
    notes = ["; ".join(run.notes()) for run in runs]
    if any(notes):
        columns["notes"] = notes
    order = sorted(range(len(runs)), key=lambda i: [_sort_key(v[i]) for v in settings.values()])
    rows = [[cells[i] for cells in columns.values()] for i in order]
    caption = f"{images[0]} images, %." if same_images else "%."
    return Table([*columns], rows, words, title, caption)


def _sort_key(value: str) -> tuple[int, Any]:
    """Orders values of any type: none, numbers, lists of numbers, and the rest by its text."""
    decoded = json.loads(value or "null")
    if decoded is None:
        return 0, 0
    if not isinstance(decoded, bool) and as_number(decoded) is not None:
        return 1, decoded
    if isinstance(decoded, list) and all(as_number(item) is not None for item in decoded):
        return 2, decoded
    return 3, value


def _metrics(runs: Sequence[MeasuredRun]) -> dict[str, list[float | None]]:
    """Returns the main figure of a stage, and others that all runs have, by their columns."""
    metric = runs[0].kind.metric
    main = METRIC_LABELS[metric]
    columns = {main: [run.value(metric) for run in runs]}
    for level in range(1, max(len(run.levels) for run in runs)):
        columns[f"{main}, level {level}"] = [run.value(metric, level) for run in runs]
    variants = [run.figures.get("variants") or {} for run in runs]
    for name in dict.fromkeys(name for variant in variants for name in variant):
        columns[f"{main} {name}"] = [as_number(v.get(name, {}).get(metric)) for v in variants]
    columns["F1"] = [run.value("f1") for run in runs]
    return {name: v for name, v in columns.items() if name == main or None not in v}


def _embolden(values: Sequence[float | None]) -> list[str]:
    """Returns percentages, the best in bold unless all are printed alike."""
    texts = [percent(value, missing="") for value in values]
    best = highest(dict(enumerate(texts)))
    return [f"**{text}**" if i in best else text for i, text in enumerate(texts)]
