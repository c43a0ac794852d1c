"""The measured runs: entries of ``metrics.json`` files, and the configurations behind them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.datasets.sources import read_lists
from pipeline.engine.kinds import Kind, kinds, measured_kinds
from pipeline.engine.records import Counterparts, named_in
from pipeline.engine.store import refuse_other_format
from pipeline.errors import UserError
from pipeline.evaluation.about import About
from pipeline.evaluation.currency import Currency
from pipeline.evaluation.metrics import as_number
from pipeline.evaluation.record import MetricsFile
from pipeline.files.fingerprints import remember_in
from pipeline.report.tables.configurations import compose, differences
from pipeline.report.tables.markdown import percent
from pipeline.report.tables.published import Column, remark_on_clip

METRICS = "metrics.json"
METRIC_LABELS = {
    "map": "mAP",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "miou": "mIoU",
    "miou_union": "mIoU_union",
    "miou_images": "mIoU_images",
}
"""Metric in ``metrics.json`` → its name for readers."""

_MAX_DEPTH = 3  # folders from a given one down to a metrics.json
_MAX_NAMES = 3  # classes that a note lists


@dataclass(frozen=True)
class MeasuredRun:
    """One measured result: of a stage, a split and a configuration."""

    order: int  # increases from the oldest run to the latest
    stage: str
    split: str
    key: str
    images: int  # that were measured
    about: About
    configuration: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]  # see settings_behind, by which runs are compared
    figures: Mapping[str, Any]  # the whole entry, with figures in [0, 1]

    @property
    def dataset_split(self) -> str:
        """The data set and the split."""
        return f"{self.about.dataset} {self.split}"

    @property
    def kind(self) -> Kind:
        """What was measured."""
        return measured_kinds()[self.stage]

    @property
    def has_tags(self) -> bool:
        """Whether tags were measured, against the labels of images; else it was their pixels."""
        return self.kind.holds == "tags"

    @property
    def chain(self) -> dict[str, Mapping[str, Any]]:
        """The settings of its stage, and of each stage before, which they hold; the last first."""
        chain = {self.stage: self.configuration}
        settings, every = self.configuration, kinds()
        for kind in reversed(every[: every.index(self.kind)]):
            if isinstance(before := settings.get(kind.stage), Mapping):
                settings = chain[kind.stage] = before
        return chain

    @property
    def counterparts(self) -> Sequence[Counterparts]:
        """What each run that made or confirmed the results is on every split, the latest last."""
        return self.figures.get("counterparts", ())

    def is_of_run(self, other: "MeasuredRun") -> bool:
        """Tells whether one run gave both on different splits, computed in the same precision."""
        pairs, alike = ((self, other), (other, self)), self.stage == other.stage
        alike &= self.about.precision == other.about.precision
        return alike and any(named_in(a.counterparts, b.split, b.stage, b.key) for a, b in pairs)

    @property
    def backbone(self) -> str:
        """The CLIP and the origin of its weights."""
        clip, pretrained = self.about.clip, self.about.pretrained
        return f"{clip} ({pretrained})" if pretrained else clip

    @property
    def levels(self) -> list[Mapping[str, Any]]:
        """The figures of its own classes, of their parents, and so on."""
        return [self.figures, *self.figures.get("levels", [])]

    def value(self, metric: str, level: int = 0) -> float | None:
        """Returns a figure in [0, 1], or none; level 0 is the classes', 1 that of their parents."""
        return as_number(self.levels[level].get(metric)) if level < len(self.levels) else None

    def value_in(self, column: Column) -> float | None:
        """Returns its figure in a published column, in [0, 1]; none if that is of other images."""
        measured = self.dataset_split == f"{column.split.dataset} {column.split.split}"
        return self.value(column.metric, column.level) if measured else None

    def notes(self, level: int = 0) -> list[str]:
        """Returns the footnotes of the figures of a level."""
        facts = (self.about.data, self.about.given, self.figures.get("remark"))
        notes = [*filter(None, facts), *map_notes(self.levels[level])]
        means = [percent(self.value(metric, level)) for metric in ("miou", "miou_union")]
        if means[0] != means[1] and "miou_union" in self.figures:
            notes.append(f"mIoU_union {means[1]}, where classes that are only predicted count 0")
        remark = remark_on_clip(self.about.experiment, self.about.clip)
        return notes + self.help_by_ground_truth() + ([remark] if remark else [])

    def help_by_ground_truth(self) -> list[str]:
        """Returns the footnotes on human annotations that contributed to the figures."""
        notes = [SUPERVISED] if self.figures.get("supervised") else []
        if corrections := self.figures.get("corrections"):
            notes.append(f"corrected by hand ({corrections})")
        if self.figures.get("chosen_by_ground_truth"):
            beta = as_number(self.figures.get("background_beta"))
            chosen = "none" if beta is None else f"β={beta:g}"
            notes.append(f"background chosen by ground truth ({chosen})")
        if has_seen_masks(self.figures):
            notes.append("its initial weights were trained on masks: not annotation-free")
        if self.configuration.get("checkpoint") == "best":
            notes.append("checkpoint chosen by ground truth")
        return notes

    def changes(self) -> list[str]:
        """Returns the settings in which the run differs from the experiment that it names.

        Those with columns of their own in the tables (CLIP, compat, precision) are omitted, as are
        TagCLIP's lists, which published figures rest on. The experiment's methods must be
        registered. Raises a UserError if its files cannot be read.
        """
        experiment, (lists, _), changes = compose(self.about.experiment), read_lists(), []
        for group, given in self.settings.items():
            expected, name = experiment.get(group, {}), "method" if "method" in given else "name"
            if (chosen := given.get(name)) in (None, expected.get(name)):
                changes += differences(group, given, expected)
            elif group != "clip":
                changes.append(f"{group}={chosen}")
        facts = {"round": self.about.round, "corrections": self.about.corrections}
        changes += [f"{name}={fact}" for name, fact in facts.items() if fact]
        return [each for each in changes if each.partition("=")[2] not in lists]


def find_files(places: Iterable[Path]) -> list[Path]:
    """Returns the metrics files in and below folders, and those that are named, oldest first.

    Raises a UserError if a place does not exist.
    """
    files: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"there is no {place}: give a folder with results, or a {METRICS}")
        patterns = ["*/" * depth + METRICS for depth in range(_MAX_DEPTH + 1)]
        below = [path for pattern in patterns for path in place.glob(pattern) if path.is_file()]
        files |= {path.resolve(): path for path in (below if place.is_dir() else [place])}
    return sorted(files.values(), key=lambda path: (path.stat().st_mtime_ns, path))


def read_runs(files: Sequence[Path]) -> tuple[list[MeasuredRun], list[str]]:
    """Returns the runs of metrics files, oldest first, and sentences on what is left out of them.

    Left out are files of output directories of another format, and figures that are not of what
    lies beside a file.
    """
    runs: list[MeasuredRun] = []
    problems = []
    for file in files:
        try:
            refuse_other_format(file)
        except UserError as error:
            problems.append(f"{file} is skipped: {error}")
            continue
        metrics = MetricsFile(file)
        if metrics.damage:
            problems.append(f"{metrics.damage}, which is skipped: run stage=evaluate again")
        remember_in(file.parent, write=False)
        metrics.withhold(Currency(file.parent))
        problems += [f"{file}: {sentence}" for sentence in metrics.withheld]
        runs += runs_of(metrics, len(runs))
    return runs, problems


def runs_of(metrics: MetricsFile, earlier: int = 0) -> list[MeasuredRun]:
    """Returns the runs of a metrics file, oldest first, after ``earlier`` runs of other files.

    An entry is a run of every experiment that it belongs to.
    """
    runs: list[MeasuredRun] = []
    names = ("stage", "split", "key", "images", "configuration", "settings")
    for entry in metrics.runs:
        about = About.of(entry["about"])
        shared = {name: entry[name] for name in names}
        order = earlier + len(runs)
        for experiment in entry["experiments"]:
            about = replace(about, experiment=experiment)
            runs.append(MeasuredRun(order, about=about, figures=entry, **shared))
    return runs


# Footnotes of tables

SUPERVISED = "trained on the ground truth (supervised)"
"""What tables say of the figures of a network, and of its labels, with ``masks=ground_truth``."""


def has_seen_masks(figures: Mapping[str, Any]) -> bool:
    """Tells whether a segmenter started from weights that were trained on human masks."""
    return bool((figures.get("initial_weights") or {}).get("seen_masks"))


def map_notes(figures: Mapping[str, Any]) -> list[str]:
    """Returns the footnotes of the mAP of tags."""
    if "map_classes" not in figures:
        return []
    classes, averaged = figures["per_class"], figures["map_classes"]
    if averaged is None:
        return ["no mAP: the scores are decisions, which rank nothing"]
    notes, absent = [], [name for name, figures in classes.items() if figures.get("positives") == 0]
    if absent:
        more = f" and {len(absent) - _MAX_NAMES} more" if len(absent) > _MAX_NAMES else ""
        names = f"{', '.join(absent[:_MAX_NAMES])}{more} {'have' if absent[1:] else 'has'}"
        count = f", and count{'' if absent[1:] else 's'} 0" if averaged == len(classes) else ""
        over = f"mAP over {averaged} of {len(classes)} classes"
        notes.append(f"{over}; {names} no positive{count}")
    if "map_of_ties" in figures:
        low, high = map(percent, figures["map_of_ties"])
        notes.append(f"mAP from {low} to {high} by the order of images of equal score")
    return notes
