"""The measured runs: entries of ``metrics.json`` files, and the configurations behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.evaluation.record import MetricsFile
from pipeline.report.configurations import (
    compose,
    describe_setting,
    differences,
    flatten,
    identity,
    last_part,
)
from pipeline.report.markdown import Notes, percent, percent_of_several
from pipeline.report.published import remark_on_clip
from pipeline.report.remarks import has_seen_masks, map_notes

METRICS = "metrics.json"
MAIN_METRIC = {"tags": "map", "cams": "miou", "masks": "miou", "predictions": "miou"}
"""Stage → the figure that stands for it."""

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

STAGE_NAMES = {"tags": "tags", "cams": "CAMs", "masks": "masks", "predictions": "segmenter"}
"""Stage → its name in tables."""

STAGE_TITLES = {**STAGE_NAMES, "cams": "class activation maps", "masks": "pseudo masks"}
"""Stage → its name where there is room."""

STAGES = ("predictions", "segmenter", "masks", "cams", "tags")
"""The last first; the settings of each hold those of the next."""

_MAX_DEPTH = 3  # folders from a given one down to a metrics.json
_NOT_COMPARABLE = ("templates", "variants", "background_betas")
"""Settings that a run's configuration does not hold, or holds in another form than the files."""


class Choices(NamedTuple):
    """The settings by which tables tell runs on the same images apart."""

    experiment: str
    tags: str
    clip: str
    pretrained: str
    compat: str
    precision: str

    @property
    def backbone(self) -> str:
        """The CLIP and the origin of its weights."""
        return f"{self.clip} ({self.pretrained})" if self.pretrained else self.clip


@dataclass(frozen=True)
class Run:
    """One measured result: of a stage, a split and a configuration."""

    file: Path  # the metrics.json that holds it
    order: int  # increases from the oldest run to the latest
    stage: str
    split: str
    key: str
    images: int  # that were measured
    about: Mapping[str, str]  # the choices in words, the data set and the commit
    configuration: Mapping[str, Any]
    figures: Mapping[str, Any]  # the whole entry, with figures in [0, 1]

    @property
    def dataset_split(self) -> str:
        """The data set and the split."""
        return f"{self.about.get('dataset', '')} {self.split}"

    @property
    def image_set(self) -> str:
        """Identifies the photographs that were measured; "" where that was not recorded."""
        return self.figures.get("image_set", "")

    @property
    def ground_truth(self) -> str:
        """Identifies their ground truth; "" where that was not recorded."""
        return self.figures.get("ground_truth", "")

    @property
    def chain(self) -> dict[str, Mapping[str, Any]]:
        """The settings of its stage and of those that it is made from, the last first.

        Settings of a stage hold those of the stage before it.
        """
        chain: dict[str, Mapping[str, Any]] = {}
        settings: Any = {self.stage: self.configuration}
        for stage in STAGES[STAGES.index(self.stage) :]:
            settings = settings.get(stage)
            if not isinstance(settings, Mapping):
                break
            chain[stage] = settings
        return chain

    @property
    def choices(self) -> Choices:
        """The choices that distinguish the rows of tables."""
        return Choices(*(self.about.get(name, "") for name in Choices._fields))

    @property
    def levels(self) -> list[Mapping[str, Any]]:
        """The figures of its own classes, of their parents, and so on."""
        return [self.figures, *self.figures.get("levels", [])]

    def value(self, metric: str, level: int = 0) -> float | None:
        """Returns a figure in [0, 1], or none; level 0 is the classes', 1 that of their parents."""
        return as_number(self.levels[level].get(metric)) if level < len(self.levels) else None

    def class_values(self, metric: str) -> list[float | None]:
        """Returns a figure of each class, in their order."""
        return [as_number(of.get(metric)) for of in self.figures.get("per_class", {}).values()]

    def notes(self, level: int = 0) -> list[str]:
        """Returns what a reader must know beside the figures of a level."""
        notes = [self.about["data"]] if self.about.get("data") else []
        notes += map_notes(self.levels[level]) if level < len(self.levels) else []
        means = [percent(self.value(metric, level)) for metric in ("miou", "miou_union")]
        if means[0] != means[1] and "miou_union" in self.figures:
            notes.append(f"mIoU_union {means[1]}, where classes that are only predicted count 0")
        remark = remark_on_clip(self.choices.experiment, self.choices.clip)
        return notes + self.help_by_ground_truth() + [remark] * bool(remark)

    def help_by_ground_truth(self) -> list[str]:
        """Returns what of the figures people's annotations of the data contributed to."""
        notes = []
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

        Those with columns of their own in the tables (CLIP, compat, precision) are left out. The
        methods that the experiment names must be registered.

        Raises:
            UserError: the experiment's files cannot be read.
        """
        experiment, changes = compose(self.choices.experiment), []
        for stage, settings in self.chain.items():
            if stage in ("predictions", "segmenter"):
                continue
            for name, expected in experiment[stage].items():
                # Without a list of its own an experiment takes the data set's backgrounds.
                inherited = name == "backgrounds" and expected is None
                if (stage, name) == ("masks", "names"):
                    expected = _names_in(expected) if expected else settings.get(name)
                if name in settings and name not in _NOT_COMPARABLE and not inherited:
                    changes += differences(f"{stage}.{name}", settings[name], expected)
        if self.stage == "cams":
            # The values of β among which ground truth chose are not part of the key.
            tried = list(self.figures.get("chosen_by_ground_truth") or {})
            expected = experiment["cams"]["background_betas"]
            wanted = set(expected) if len(expected) > 1 else set()
            if {None if beta == "None" else float(beta) for beta in tried} != wanted:
                changes.append(f"cams.background_betas={describe_setting(tried or 'a single one')}")
        return changes


def _names_in(given: str) -> list[list[str]]:
    """Returns the names of a list of ``masks.names``, as the configuration of a run holds them."""
    # Rarely needed, and slow to import.
    from pipeline.masks.name_lists import names_in

    return [list(names) for names in names_in(given)]


class Shown(NamedTuple):
    """The run that a cell shows, and what it was chosen from, see :func:`choose_run`."""

    run: Run
    candidates: int  # configurations, apart from seeds
    full_sizes: Sequence[int]
    seeds: Sequence[Run] = ()  # runs of other seeds on as many images

    def figure(self, metric: str, level: int = 0) -> str:
        """Returns a figure in percent; of several seeds the mean ± the standard deviation."""
        values = [run.value(metric, level) for run in (self.run, *self.seeds)]
        return percent(values[0]) if None in values else percent_of_several(values)

    def cell(self, metric: str, notes: Notes, level: int = 0) -> str:
        """Returns a figure in percent with its marks and remarks, or nothing if not measured.

        A dash stands for a figure that the results do not have, such as the mAP of decisions.
        """
        if level >= len(self.run.levels) or metric not in self.run.levels[level]:
            return ""
        latest = f"latest of {self.candidates}" if self.candidates > 1 else ""
        images = describe_images(self.run.images, self.full_sizes)
        seeds = f"{1 + len(self.seeds)} seeds" if self.seeds else ""
        remark = ", ".join(filter(None, [images, seeds, latest]))
        marks = "".join(map(notes.mark, self.run.notes(level)))
        return f"{self.figure(metric, level)}{marks}{f' ({remark})' * bool(remark)}"


def as_number(value: object) -> float | None:
    """Returns a finite number, or none for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def find_files(places: Iterable[Path]) -> list[Path]:
    """Returns the metrics files in and below folders, and those that are named, oldest first.

    Raises:
        UserError: a place does not exist.
    """
    files: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"there is no {place}: give a folder with results, or a {METRICS}")
        patterns = ["*/" * depth + METRICS for depth in range(_MAX_DEPTH + 1)]
        below = [path for pattern in patterns for path in place.glob(pattern) if path.is_file()]
        files |= {path.resolve(): path for path in (below if place.is_dir() else [place])}
    return sorted(files.values(), key=lambda path: (path.stat().st_mtime_ns, path))


def read_runs(files: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Returns the runs of metrics files, oldest first, and a sentence on each damaged file."""
    runs: list[Run] = []
    problems = []
    for file in files:
        metrics = MetricsFile(file)
        if metrics.damage:
            problems.append(f"{metrics.damage}, which is skipped: run stage=evaluate again")
        runs += runs_of(metrics, file, len(runs))
    return runs, problems


def runs_of(metrics: MetricsFile, file: Path = Path(METRICS), earlier: int = 0) -> list[Run]:
    """Returns the runs of a metrics file, oldest first, after ``earlier`` runs of other files."""
    runs: list[Run] = []
    for entry in metrics.runs:
        runs += _read_entry(file, earlier + len(runs), entry)
    return runs


def _read_entry(file: Path, order: int, entry: Mapping[str, Any]) -> Iterator[Run]:
    """Yields a run for every experiment that an entry belongs to."""
    about = {name: str(value or "") for name, value in entry["about"].items()}
    for experiment in entry.get("experiments") or [about.get("experiment", "")]:
        names = ("stage", "split", "key", "images", "configuration")
        named = {**about, "experiment": str(experiment)}
        yield Run(file, order, about=named, figures=entry, **{name: entry[name] for name in names})


def choose_run(runs: Sequence[Run], full_sizes: Sequence[int] = ()) -> Shown:
    """Chooses the latest run on all images, or else the latest of those on the most images.

    Runs that differ from it in nothing but the seed are shown with it. ``full_sizes`` are the
    numbers of images that make a whole split; empty if any number does.
    """

    def rank(run: Run) -> tuple[bool, int, int]:
        is_whole = run.images in full_sizes
        return is_whole, 0 if is_whole else run.images, run.order

    chosen = max(runs, key=rank)
    latest = {run.key: run for run in runs if run.key != chosen.key}.values()
    same = without_seed(chosen)
    seeds = [r for r in latest if without_seed(r) == same and r.images == chosen.images]
    candidates = {same, *map(without_seed, latest)}
    return Shown(chosen, len(candidates), full_sizes, seeds)


def without_seed(run: Run) -> str:
    """Returns what runs share that differ in nothing but the seed; the key of one without."""
    has_seed = any(last_part(name) == "seed" for name in flatten(run.configuration))
    return identity(run.configuration) if has_seed else run.key


def describe_images(images: int, full_sizes: Sequence[int]) -> str:
    """Returns "" if a whole split was measured (see :func:`choose_run`), else how much of it."""
    if not full_sizes or images in full_sizes:
        return ""
    return f"{'partial: ' * (images < max(full_sizes))}{images:,} images"
