"""One experiment that was run several times with different settings, as a table of the settings.

The runs of a study name the same experiment (``experiment_name=NAME``) and differ in what Hydra's
multirun was given. What differs is read off their configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files.fingerprints import canonical_json
from pipeline.report.configurations import describe_setting, flatten
from pipeline.report.markdown import padded_table, percent_or_blank
from pipeline.report.runs import MAIN_METRIC, Run, as_number

_MOST_ROWS = 12
"""Up to as many runs, pairs of blocks are rows; above it a matrix is easier to read."""

_STAGES = {"tags": "tags", "cams": "maps", "masks": "masks", "predictions": "segmenter"}
_EXPLAINED = {
    "clip": ("model", "weights", "mean", "std", "quick_gelu"),
    "pretrained": ("weights", "mean", "std", "quick_gelu"),
    "tags": ("method",),
    "compat": ("exif", "position_fp16", "open_border", "cwr_stop", "crf_bgr", "crf_fp16"),
    "precision": ("precision",),
    "segmenter": ("name",),
}
"""A choice that readers know by name → the settings that it stands for."""

_FINGERPRINTS = ("weights", "data", "list")
"""Settings that only name a content; they are left out where others say the same."""

_MISSING = object()


class _Setting(NamedTuple):
    """A setting, by its dotted name, and its value in each run."""

    name: str
    values: list[Any]

    @property
    def last_name(self) -> str:
        """The name without the stages that it lies in."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def identities(self) -> list[str]:
        """What equal values have in common, in each run; "" where it does not have the setting."""
        return ["" if value is _MISSING else canonical_json(value) for value in self.values]

    @property
    def texts(self) -> list[str]:
        """The values for readers."""
        return ["–" if value is _MISSING else describe_setting(value) for value in self.values]

    def follows(self, others: Sequence[_Setting]) -> bool:
        """Tells whether its value is known as soon as those of others are."""
        causes = list(zip(*(other.identities for other in others)))
        return len(set(zip(causes, self.identities))) == len(set(causes))


class _Metric(NamedTuple):
    """A column of figures, in [0, 1]; none where one was not measured."""

    label: str
    values: list[float | None]


def write_study(name: str, runs: Sequence[Run]) -> str:
    """Returns a table for each data set, stage and split of an experiment, as Markdown.

    Args:
        name: the experiment.
        runs: everything that was measured, oldest first.

    Raises:
        UserError: no run names the experiment.
    """
    groups: dict[tuple[str, int, str], dict[str, Run]] = {}
    stages = list(MAIN_METRIC)
    for run in runs:
        if run.choices.experiment == name:
            group = groups.setdefault((run.dataset, stages.index(run.stage), run.split), {})
            group[run.key] = run
    if not groups:
        known = sorted({run.choices.experiment for run in runs} - {""})
        there = f"those that exist are {', '.join(known)}" if known else "none was named so far"
        raise UserError(
            f"no run is of an experiment {name}: {there}; run_stage.py … experiment_name=NAME"
            " names one"
        )
    sections = [
        f"## {dataset} {split}, {_STAGES[stages[stage]]}\n\n{_table(list(groups[key].values()))}"
        for key in sorted(groups)
        for dataset, stage, split in [key]
    ]
    return "\n".join([f"# {name}\n", *sections])


def _table(runs: list[Run]) -> str:
    settings = _varying(runs)
    matrix = _matrix(runs, settings)
    if matrix:
        return matrix
    if not settings or len(set(zip(*(s.identities for s in settings)))) < len(runs):
        settings.append(_Setting("key", [run.key for run in runs]))
    order = sorted(range(len(runs)), key=lambda i: [_sort_key(s.values[i]) for s in settings])
    metrics = [(metric.label, _embolden(metric.values)) for metric in _metrics(runs)]
    names = _short_names([setting.name for setting in settings])
    images = [f"{run.images:,}" for run in runs]
    caption = f"{images[0]} images, %.\n\n" if len(set(images)) == 1 else "%.\n\n"
    columns = [(name, setting.texts) for name, setting in zip(names, settings, strict=True)]
    if len(set(images)) > 1:
        columns.append(("images", images))
    notes = ["; ".join(run.notes()) for run in runs]
    columns += metrics + ([("notes", notes)] if any(notes) else [])
    header = [label for label, _ in columns]
    rows = [[cells[i] for _, cells in columns] for i in order]
    return caption + padded_table(header, rows, [*names, "notes"])


def _varying(runs: Sequence[Run]) -> list[_Setting]:
    """Returns the settings that differ among runs, each once."""
    # Only predictions depend on the segmenter, but every run names one.
    names = [name for name in _EXPLAINED if name != "segmenter" or runs[0].stage == "predictions"]
    choices = [_Setting(name, [run.about.get(name, "") for run in runs]) for name in names]
    choices = [choice for choice in choices if len(set(choice.values)) > 1]
    kept: dict[tuple[str, ...], _Setting] = {}
    # A stage holds the settings of those before it, so that some stand there twice: short ones win.
    for setting in sorted(_configured(runs), key=lambda s: s.name.count(".")):
        explaining = [c for c in choices if _may_explain(c, setting)]
        if not any(setting.follows([choice]) for choice in explaining):
            kept.setdefault((setting.last_name, *setting.identities), setting)
    varying = choices + list(kept.values())
    for setting in [s for s in varying if s.last_name in _FINGERPRINTS]:
        others = [other for other in varying if other is not setting]
        if others and setting.follows(others):
            varying = others
    return varying


def _may_explain(choice: _Setting, setting: _Setting) -> bool:
    """Tells whether a choice could stand for a setting, if the setting follows from it."""
    if choice.name == "segmenter":
        return setting.name.startswith("segmenter.")  # its preset holds all of them
    return setting.last_name in _EXPLAINED[choice.name]


def _configured(runs: Sequence[Run]) -> list[_Setting]:
    """Returns the settings of the configuration whose values differ where runs have them."""
    flat = [flatten(run.configuration) for run in runs]
    settings = []
    for name in dict.fromkeys(name for one in flat for name in one):
        # Where a whole group is null in some runs (no CRF), it is a value of its own in the others.
        in_groups = [any(other.startswith(f"{name}.") for other in one) for one in flat]
        values = [one.get(name, {} if group else _MISSING) for one, group in zip(flat, in_groups)]
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
    """Orders values of any type: none, then numbers, lists of numbers, and the rest by its text."""
    if value is None or value is _MISSING:
        return 0, 0
    if as_number(value) is not None:
        return 1, value
    if isinstance(value, list) and all(as_number(item) is not None for item in value):
        return 2, value
    return 3, canonical_json(value)


def _metrics(runs: Sequence[Run]) -> list[_Metric]:
    """Returns the figures of a stage: those that all runs have, apart from the main one."""
    stage = runs[0].stage
    main, label = MAIN_METRIC[stage], "mAP" if stage == "tags" else "mIoU"

    def column(label: str, of: Callable[[Run], float | None]) -> _Metric:
        return _Metric(label, [of(run) for run in runs])

    optional = []
    for level in range(1, 1 + max(run.levels for run in runs)):
        optional.append(column(f"{label}, level {level}", lambda r, n=level: r.value(main, n)))
    for name in dict.fromkeys(name for run in runs for name in _variants(run)):
        optional.append(column(f"{label} {name}", lambda r, n=name: _variants(r).get(n)))
    if stage == "tags":
        optional.append(column("F1", lambda r: r.value("f1")))
    complete = [metric for metric in optional if None not in metric.values]
    return [column(label, lambda r: r.value(main)), *complete]


def _variants(run: Run) -> dict[str, float | None]:
    variants = run.figures.get("variants")
    found: Mapping = variants if isinstance(variants, dict) else {}
    main = MAIN_METRIC[run.stage]
    return {name: as_number(v.get(main)) for name, v in found.items() if isinstance(v, dict)}


def _embolden(values: Sequence[float | None]) -> list[str]:
    """Returns percentages, the best in bold unless, as they are printed, all are equal."""
    texts = [percent_or_blank(value) for value in values]
    best = percent_or_blank(max((v for v in values if v is not None), default=None))
    if len(set(texts)) == 1:
        return texts
    return [f"**{text}**" if text == best else text for text in texts]


def _matrix(runs: Sequence[Run], settings: Sequence[_Setting]) -> str:
    """Returns first × last block of the main figure where these alone differ, else nothing."""
    if len(settings) != 1 or len(runs) <= _MOST_ROWS:
        return ""
    pairs = settings[0].values
    if not all(isinstance(p, list) and len(p) == 2 and all(map(_is_block, p)) for p in pairs):
        return ""
    metric = _metrics(runs)[0]
    figures = dict(zip(map(tuple, pairs), _embolden(metric.values)))
    firsts, lasts = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    corner = f"{settings[0].name}: first ↓ last →"
    rows = [[str(first), *(figures.get((first, last), "") for last in lasts)] for first in firsts]
    images = " / ".join(dict.fromkeys(f"{run.images:,}" for run in runs))
    table = padded_table([corner, *map(str, lasts)], rows, [corner])
    return f"{metric.label}, %, {images} images.\n\n{table}"


def _is_block(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
