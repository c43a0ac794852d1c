"""One experiment that was run several times with different settings, as a table of the settings.

The runs of a study name the same experiment (``experiment_name=NAME``). The settings that differ
are found by comparing their configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files.fingerprints import canonical_json
from pipeline.report.configurations import describe_setting, flatten
from pipeline.report.markdown import padded_table, percent
from pipeline.report.runs import MAIN_METRIC, METRIC_LABELS, STAGE_NAMES, Run, as_number

_MAX_ROWS = 12
"""With more runs, pairs of blocks are easier to read as a matrix than as rows."""

_CHOICES = {
    "clip": ("model", "weights", "mean", "std", "quick_gelu"),
    "pretrained": ("weights", "mean", "std", "quick_gelu"),
    "tags": ("method", "code"),
    "compat": ("exif", "position_fp16", "open_border", "cwr_stop", "crf_bgr", "crf_fp16"),
    "precision": ("precision",),
    "segmenter": ("name",),
}
"""A choice that readers know by name → the settings that it stands for."""

_FINGERPRINTS = ("weights", "data", "list")
"""Settings that only identify a content; they are left out if others distinguish the runs."""

_MISSING = object()


class _Setting(NamedTuple):
    """A setting, by its dotted name, and its value in each run."""

    name: str
    values: list[Any]

    @property
    def last_name(self) -> str:
        """The name without the groups around it."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def identities(self) -> list[str]:
        """A text for each run, equal for equal values; "" where a run lacks the setting."""
        return ["" if value is _MISSING else canonical_json(value) for value in self.values]

    @property
    def has_pairs(self) -> bool:
        """Whether all values are a first and a last block."""
        return all(
            isinstance(v, list) and len(v) == 2 and all(isinstance(block, int) for block in v)
            for v in self.values
        )

    def follows_from(self, others: Sequence[_Setting]) -> bool:
        """Tells whether the values of others determine its value."""
        causes = list(zip(*(other.identities for other in others)))
        return len(set(zip(causes, self.identities))) == len(set(causes))


def write_study(name: str, runs: Sequence[Run]) -> str:
    """Returns a table for each data set, stage and split of an experiment, as Markdown.

    Raises:
        UserError: no run names the experiment.
    """
    groups: dict[tuple[str, int, str], dict[str, Run]] = {}
    for run in runs:
        if run.choices.experiment == name:
            place = (run.dataset, list(MAIN_METRIC).index(run.stage), run.split)
            groups.setdefault(place, {})[run.key] = run
    if not groups:
        known = sorted({run.choices.experiment for run in runs} - {""})
        there = f"those that exist are {', '.join(known)}" if known else "no run names one yet"
        raise UserError(
            f"no run belongs to an experiment {name}: {there}; name one with run_stage.py …"
            " experiment_name=NAME"
        )
    sections = [f"# {name}\n"]
    for key in sorted(groups):
        group = list(groups[key].values())
        title = f"{group[0].dataset} {group[0].split}, {STAGE_NAMES[group[0].stage]}"
        sections.append(f"## {title}\n\n{_table(group)}")
    return "\n".join(sections)


def _table(runs: list[Run]) -> str:
    settings = _varying(runs)
    if len(settings) == 1 and len(runs) > _MAX_ROWS and settings[0].has_pairs:
        return _matrix(runs, settings[0])
    if not settings or len(set(zip(*(s.identities for s in settings)))) < len(runs):
        settings.append(_Setting("key", [run.key for run in runs]))
    names = _short_names([setting.name for setting in settings])
    columns = {
        name: ["–" if v is _MISSING else describe_setting(v) for v in setting.values]
        for name, setting in zip(names, settings, strict=True)
    }
    images = [f"{run.images:,}" for run in runs]
    same_images = len(set(images)) == 1
    if not same_images:
        columns["images"] = images
    columns |= {label: _embolden(values) for label, values in _metrics(runs).items()}
    notes = ["; ".join(run.notes()) for run in runs]
    if any(notes):
        columns["notes"] = notes
    order = sorted(range(len(runs)), key=lambda i: [_sort_key(s.values[i]) for s in settings])
    rows = [[cells[i] for cells in columns.values()] for i in order]
    caption = f"{images[0]} images, %.\n\n" if same_images else "%.\n\n"
    return caption + padded_table(columns, rows, [*names, "notes"])


def _varying(runs: Sequence[Run]) -> list[_Setting]:
    """Returns the settings that differ among runs, each once."""
    # Only predictions depend on the segmenter, but every run names one.
    names = [name for name in _CHOICES if name != "segmenter" or runs[0].stage == "predictions"]
    choices = [_Setting(name, [run.about.get(name, "") for run in runs]) for name in names]
    choices = [choice for choice in choices if len(set(choice.values)) > 1]
    kept: dict[tuple[str, ...], _Setting] = {}
    # A stage's settings include those of the stages before it, some of them twice: short names win.
    for setting in sorted(_configured(runs), key=lambda s: s.name.count(".")):
        explaining = [choice for choice in choices if _may_explain(choice, setting)]
        if not any(setting.follows_from([choice]) for choice in explaining):
            kept.setdefault((setting.last_name, *setting.identities), setting)
    varying = choices + list(kept.values())
    for setting in [s for s in varying if s.last_name in _FINGERPRINTS]:
        others = [other for other in varying if other is not setting]
        if others and setting.follows_from(others):
            varying = others
    return varying


def _may_explain(choice: _Setting, setting: _Setting) -> bool:
    if choice.name == "segmenter":
        return setting.name.startswith("segmenter.")  # its preset holds all of them
    return setting.last_name in _CHOICES[choice.name]


def _configured(runs: Sequence[Run]) -> list[_Setting]:
    """Returns the settings of the configurations that differ among the runs that have them."""
    flat = [flatten(run.configuration) for run in runs]
    settings = []
    for name in dict.fromkeys(name for configuration in flat for name in configuration):
        # A group that is null in some runs (no CRF) is a value of its own in the others.
        values = [
            c.get(name, {} if any(other.startswith(f"{name}.") for other in c) else _MISSING)
            for c in flat
        ]
        setting = _Setting(name, values)
        if len(set(setting.identities) - {""}) > 1:
            settings.append(setting)
    return settings


def _short_names(names: Sequence[str]) -> list[str]:
    """Returns the last parts of dotted names, with as many before them as tell them apart."""
    parts = [name.split(".") for name in names]
    lengths = [1] * len(names)
    while True:
        short = [".".join(p[-length:]) for p, length in zip(parts, lengths)]
        longer = [
            min(length + (short.count(s) > 1), len(p))
            for s, p, length in zip(short, parts, lengths)
        ]
        if longer == lengths:
            return short
        lengths = longer


def _sort_key(value: object) -> tuple[int, Any]:
    """Orders values of any type: none, numbers, lists of numbers, and the rest by its text."""
    if value is None or value is _MISSING:
        return 0, 0
    if not isinstance(value, bool) and as_number(value) is not None:
        return 1, value
    if isinstance(value, list) and all(as_number(item) is not None for item in value):
        return 2, value
    return 3, canonical_json(value)


def _metrics(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Returns the main figure of a stage, and others that all runs have, by their columns."""
    metric = MAIN_METRIC[runs[0].stage]
    main = METRIC_LABELS[metric]
    columns = {main: [run.value(metric) for run in runs]}
    for level in range(1, max(len(run.levels) for run in runs)):
        columns[f"{main}, level {level}"] = [run.value(metric, level) for run in runs]
    variants = [run.figures.get("variants") or {} for run in runs]
    for name in dict.fromkeys(name for of_run in variants for name in of_run):
        columns[f"{main} {name}"] = [as_number(v.get(name, {}).get(metric)) for v in variants]
    columns["F1"] = [run.value("f1") for run in runs]
    return {name: v for name, v in columns.items() if name == main or None not in v}


def _embolden(values: Sequence[float | None]) -> list[str]:
    """Returns percentages, the best in bold unless all are printed alike."""
    texts = [percent(value, missing="") for value in values]
    best = percent(max((v for v in values if v is not None), default=None), missing="")
    if len(set(texts)) == 1:
        return texts
    return [f"**{text}**" if text == best else text for text in texts]


def _matrix(runs: Sequence[Run], pairs: _Setting) -> str:
    """Returns the main figure as a matrix of first × last block."""
    label, values = next(iter(_metrics(runs).items()))
    figures = dict(zip(map(tuple, pairs.values), _embolden(values)))
    firsts, lasts = (sorted({pair[i] for pair in pairs.values}) for i in (0, 1))
    corner = f"{pairs.name}: first ↓ last →"
    rows = [[str(first), *(figures.get((first, last), "") for last in lasts)] for first in firsts]
    images = " / ".join(dict.fromkeys(f"{run.images:,}" for run in runs))
    table = padded_table([corner, *map(str, lasts)], rows, [corner])
    return f"{label}, %, {images} images.\n\n{table}"
