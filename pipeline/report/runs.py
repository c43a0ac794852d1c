"""The measured runs: what the ``metrics.json`` files below some folders hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files.atomic import read_json

METRICS = "metrics.json"
DEPTH = 3
"""How many folders below a given one a ``metrics.json`` may lie."""

MAIN_METRIC = {"tags": "map", "cams": "miou", "masks": "miou", "predictions": "miou"}
"""stage → the figure that stands for it."""


class Choices(NamedTuple):
    """What a reader tells runs on the same images apart by."""

    experiment: str
    tags: str
    clip: str
    pretrained: str
    compat: str
    precision: str

    @property
    def backbone(self) -> str:
        """CLIP and whose weights it has."""
        return f"{self.clip} ({self.pretrained})" if self.pretrained else self.clip


@dataclass(frozen=True)
class Run:
    """One measured result: of a stage, a split and a configuration.

    Attributes:
        file: the ``metrics.json`` that holds it.
        order: later runs have larger ones.
        stage: "tags", "cams", "masks" or "predictions".
        split: the split's name.
        key: names the configuration.
        images: how many images were measured.
        about: the choices in words; empty in files of older versions.
        configuration: everything that the result depends on.
        figures: the whole entry, with figures in [0, 1].
    """

    file: Path
    order: int
    stage: str
    split: str
    key: str
    images: int
    about: Mapping[str, str]
    configuration: Mapping[str, Any]
    figures: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        """The data set; in files of older versions the output folder, which is called like it."""
        return self.about.get("dataset") or self.file.absolute().parent.name

    @property
    def commit(self) -> str:
        """The commit of the code that computed it."""
        return self.about.get("commit", "")

    @property
    def choices(self) -> Choices:
        """The choices that rows of tables are told apart by."""
        return Choices(*(self.about.get(name, "") for name in Choices._fields))

    @property
    def levels(self) -> int:
        """How many levels above its own classes it was measured on."""
        levels = self.figures.get("levels")
        return len(levels) if isinstance(levels, list) else 0

    def value(self, metric: str, level: int = 0) -> float | None:
        """Returns a figure in [0, 1]; none where it was not measured.

        Args:
            metric: its name in ``metrics.json``.
            level: 0 for the classes themselves, 1 for their parents.
        """
        if level > self.levels:
            return None
        return as_number((self.figures["levels"][level - 1] if level else self.figures).get(metric))

    def notes(self) -> list[str]:
        """Returns what has to be said beside the figures."""
        notes = [self.about["data"]] if self.about.get("data") else []
        if self.figures.get("chosen_by_ground_truth"):
            beta = as_number(self.figures.get("background_beta"))
            chosen = "none" if beta is None else f"β={beta:g}"
            notes.append(f"background chosen by ground truth ({chosen})")
        if self.has_seen_masks:
            notes.append("its initial weights have seen masks: not free of annotation")
        if self.configuration.get("checkpoint") == "best":
            notes.append("checkpoint chosen by ground truth")
        return notes

    @property
    def initial_weights(self) -> str:
        """What a segmenter's backbone starts from; "" where that is nothing."""
        segmenter = self.configuration.get("segmenter")
        weights = segmenter.get("pretrained") if isinstance(segmenter, dict) else None
        return Path(str(weights)).name if weights else ""

    @property
    def has_seen_masks(self) -> bool:
        """Whether the weights that a segmenter starts from were trained on masks by people."""
        found = self.figures.get("initial_weights")
        return bool(found.get("seen_masks")) if isinstance(found, dict) else False


def as_number(value: object) -> float | None:
    """Returns a finite number; none for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def find_files(places: Iterable[Path]) -> list[Path]:
    """Returns the metrics files in and below folders, and those that are named, oldest first.

    Raises:
        UserError: a place that does not exist.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            depths = ("*/" * depth + METRICS for depth in range(DEPTH + 1))
            files = [path for pattern in depths for path in place.glob(pattern) if path.is_file()]
        elif place.is_file():
            files = [place]
        else:
            raise UserError(f"there is no {place}: give a folder with results, or a {METRICS}")
        found.update({path.resolve(): path for path in files})
    return sorted(found.values(), key=lambda path: (path.stat().st_mtime_ns, path))


def read_runs(files: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Reads the runs of metrics files.

    Args:
        files: the files, oldest first.

    Returns:
        The runs, oldest first, and a sentence for every file that holds something else.
    """
    runs: list[Run] = []
    problems = []
    for file in files:
        content = read_json(file)
        entries = content.get("runs", []) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            problems.append(f"{file} is damaged and was left out: run stage=evaluate again")
            continue
        strange = 0
        for entry in entries:
            run = _read_run(file, len(runs), entry)
            if run is None:
                strange += 1
            else:
                runs += _by_experiment(run)
        if strange:
            noun = "entry is no run" if strange == 1 else "entries are no runs"
            left_out = "was left out" if strange == 1 else "were left out"
            problems.append(f"{strange} {noun} in {file} and {left_out}")
    return runs, problems


def _read_run(file: Path, order: int, entry: object) -> Run | None:
    if not isinstance(entry, dict) or entry.get("stage") not in MAIN_METRIC:
        return None
    about, configuration = entry.get("about", {}), entry.get("configuration", {})
    names = entry.get("split"), entry.get("key")
    images = entry.get("images")
    if not all(isinstance(value, dict) for value in (about, configuration)):
        return None
    if not all(isinstance(name, str) for name in names) or not isinstance(images, int):
        return None
    levels = entry.get("levels", [])
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        return None
    return Run(
        file=file,
        order=order,
        stage=entry["stage"],
        split=names[0],
        key=names[1],
        images=images,
        about={name: str(value or "") for name, value in about.items()},
        configuration=configuration,
        figures=entry,
    )


def _by_experiment(run: Run) -> list[Run]:
    """Returns a run once for every experiment that it belongs to."""
    names = run.figures.get("experiments")
    if not isinstance(names, list) or not names:
        return [run]
    return [replace(run, about={**run.about, "experiment": str(name)}) for name in names]


def choose_run(runs: Sequence[Run], whole: Sequence[int] = ()) -> tuple[Run, int]:
    """Returns the run that a cell shows, and how many configurations it was chosen from.

    The latest of those on all images; where there is none, of those on the most.

    Args:
        runs: runs of one stage and split, at least one.
        whole: the numbers of images that are a whole split; empty: any.
    """

    def rank(run: Run) -> tuple[bool, int, int]:
        is_whole = run.images in whole
        return is_whole, 0 if is_whole else run.images, run.order

    return max(runs, key=rank), len({run.key for run in runs})


def describe_images(images: int, whole: Sequence[int]) -> str:
    """Returns nothing where all images were measured, else how many were.

    Args:
        images: how many were measured.
        whole: the numbers of images that are a whole split; empty: any.
    """
    if not whole or images in whole:
        return ""
    return f"partial: {images:,} images" if images < max(whole) else f"{images:,} images"


def join_different(values: Iterable[str]) -> str:
    """Returns the different values in order, without empty ones."""
    return " / ".join(dict.fromkeys(value for value in values if value))
