"""What a page shows of the whole run: headline figures, stages, classes, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.engine.store import StageFolder, is_complete
from pipeline.evaluation.record import MetricsFile
from pipeline.report.material import Material
from pipeline.report.measured import ImageFigures
from pipeline.report.runs import MAIN_METRIC
from pipeline.report.status import describe

BACKGROUND = "background"

_TITLES = {
    "tags": "tags",
    "cams": "class activation maps",
    "masks": "pseudo masks",
    "predictions": "segmenter",
}

Figures = Mapping[str, Mapping[str, Any]]
"""Stage → its entry of ``metrics.json``."""


class Headline(NamedTuple):
    """The main figure of a stage: a share in [0, 1] of a metric, on the images of a split."""

    title: str
    metric: str
    value: float
    images: int
    split: str


class StageRow(NamedTuple):
    """One folder of the pipeline, as its manifest describes it.

    Attributes:
        stage: its name.
        split: "" for a stage without splits.
        key: the folder's name.
        path: the folder below the output folder.
        complete: whether everything that was requested is there.
        images: of the last run, or none if it never began.
        cached: results that the next run finds.
        computed: results computed in all runs, or none if they are not counted.
        last_computed: results that the last run computed, or none if they are not counted.
        last_cached: results that the last run found in the cache; the same.
        left_out: images without a result.
        seconds: computing time of all runs, or none if it is not known.
        finished: date and time (UTC) of the last run.
        choices: the settings that distinguish it, in a few words.
        versions: package, and "host" → version or name.
    """

    stage: str
    split: str
    key: str
    path: str
    complete: bool
    images: int | None
    cached: int | None
    computed: int | None
    last_computed: int | None
    last_cached: int | None
    left_out: int
    seconds: float | None
    finished: str
    choices: str
    versions: Mapping[str, str]


class Step(NamedTuple):
    """A stage of all splits and networks, with its images and computing time in seconds."""

    stage: str
    images: int
    seconds: float


class ClassRow(NamedTuple):
    """The figures of one label.

    Attributes:
        label: 0 for the background.
        name: its name.
        tagged: images of the split that have it as a tag; none for the background.
        positives: images that show it, or none if that was not measured.
        values: stage → AP of tags or IoU, in [0, 1], or none.
    """

    label: int
    name: str
    tagged: int | None
    positives: int | None
    values: Mapping[str, float | None]


class Failure(NamedTuple):
    """An image that was left out of something, and why."""

    stage: str
    split: str
    image_id: str
    reason: str


def find_figures(metrics: MetricsFile, material: Material) -> Figures:
    """Returns the figures of exactly the folders that the page shows."""
    folders = (material.tags, material.cams, material.masks, material.predictions)
    entries = {f.stage: metrics.find(f.stage, f.split, f.key) for f in folders if f is not None}
    return {stage: entry for stage, entry in entries.items() if entry is not None}


def headlines(figures: Figures) -> list[Headline]:
    """Returns the main figure of each stage."""
    return [
        Headline(
            title=title,
            metric="mAP" if stage == "tags" else "mIoU",
            value=figures[stage][MAIN_METRIC[stage]],
            images=figures[stage]["images"],
            split=figures[stage]["split"],
        )
        for stage, title in _TITLES.items()
        if stage in figures
    ]


def stage_rows(folders: Iterable[StageFolder], root: str) -> list[StageRow]:
    """Returns what the manifests of folders say, without folders in which nothing was done.

    Args:
        folders: in the order of the pipeline.
        root: the output folder.
    """
    rows = []
    for folder in folders:
        manifest = folder.manifest()
        if not manifest and not folder.entries and not folder.failures:
            continue
        last = manifest.get("last", {})
        host = {"host": manifest["host"]} if "host" in manifest else {}
        rows.append(
            StageRow(
                stage=folder.stage,
                split=folder.split,
                key=folder.key,
                path=str(folder.path).removeprefix(root).lstrip("/"),
                complete=is_complete(manifest),
                images=manifest.get("images"),
                cached=len(folder.entries) if folder.split else None,
                computed=manifest.get("computed"),
                last_computed=last.get("computed"),
                last_cached=last.get("cached"),
                left_out=len(folder.failures),
                seconds=manifest.get("seconds"),
                finished=str(manifest.get("finished", "–"))[:16].replace("T", " "),
                choices=describe(dict(folder.configuration)),
                versions=manifest.get("versions", {}) | host,
            )
        )
    return rows


def steps(rows: Iterable[StageRow]) -> list[Step]:
    """Returns the stages of the pipeline, each with all of its splits."""
    images, seconds = Counter(), Counter()
    for row in rows:
        images[row.stage] += row.images or 0
        seconds[row.stage] += row.seconds or 0
    return [Step(stage, images[stage], seconds[stage]) for stage in images]


def class_rows(
    figures: Figures, classes: Sequence[str], images: Sequence[ImageFigures]
) -> list[ClassRow]:
    """Returns how often every class was tagged, and its AP and IoU if they were measured.

    Args:
        figures: what was measured.
        classes: the n class names.
        images: those of the split.

    Returns:
        The background, if anything was measured of it, and the classes; nothing if images were
        neither tagged nor measured.
    """
    tagged = Counter(index for image in images for index in image.tags or ())
    if not figures and not tagged:
        return []
    segmented = figures.keys() - {"tags"}
    rows = [_class_row(0, BACKGROUND, None, figures)] if segmented else []
    return rows + [
        _class_row(index + 1, name, tagged[index], figures) for index, name in enumerate(classes)
    ]


def _class_row(label: int, name: str, tagged: int | None, figures: Figures) -> ClassRow:
    # The background has no tags, even if a class has its name.
    of_class = {
        stage: entry["per_class"].get(name, {})
        for stage, entry in figures.items()
        if label or stage != "tags"
    }
    positives = of_class.get("tags", {}).get("positives")
    values = {stage: row.get("iou") for stage, row in of_class.items()}
    if "tags" in of_class:
        values["tags"] = of_class["tags"].get("ap") if positives else None
    return ClassRow(label, name, tagged, positives, values)


def list_failures(material: Material, problems: Mapping[str, str]) -> Iterator[Failure]:
    """Yields what every stage left out, and what this page cannot show.

    Args:
        material: the stages.
        problems: id → reason, of the page itself; read after the failures of the stages.
    """
    for folder in material.stages:
        for image_id, reason in sorted(folder.failures.items()):
            yield Failure(folder.stage, folder.split, image_id, reason)
    for image_id, reason in sorted(problems.items()):
        yield Failure("report", material.split, image_id, reason)


def common_versions(rows: Iterable[StageRow]) -> dict[str, list[str]]:
    """Returns package → the versions that occur in the stages, in their order."""
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for package, version in row.versions.items():
            versions.setdefault(package, {})[version] = None
    return {package: list(of_package) for package, of_package in versions.items()}
