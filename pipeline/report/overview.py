"""What a page says of the run as a whole: headline figures, stages, classes, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engine.store import StageFolder, is_complete
from pipeline.evaluation.record import MetricsFile
from pipeline.report.markdown import percent
from pipeline.report.material import Material
from pipeline.report.measured import ImageFigures
from pipeline.report.status import describe

BACKGROUND = "background"

_HEADLINES = (
    ("tags", "map", "tags", "mAP"),
    ("cams", "miou", "class activation maps", "mIoU"),
    ("masks", "miou", "pseudo masks", "mIoU"),
    ("predictions", "miou", "segmenter", "mIoU"),
)
_SECONDS_IN_MINUTE, _MINUTES_IN_HOUR = 60, 60


@dataclass(frozen=True)
class Headline:
    """One figure that stands for a stage.

    Attributes:
        label: what was measured.
        metric: its name.
        value: percent.
        images: on how many images.
        split: of this split.
    """

    label: str
    metric: str
    value: str
    images: int
    split: str


@dataclass(frozen=True)
class StageRow:
    """One folder of the pipeline, as its manifest tells.

    Attributes:
        stage: its name.
        split: "" for a stage that has none.
        key: what its folder is called.
        path: the folder below the output folder.
        complete: whether all that was asked for is there.
        images: of the last run; none where it was never begun.
        cached: results that the next run finds.
        computed: results that were computed so far, in all runs; none where nothing counts them.
        now: results that the last run computed; none where nothing counts them.
        found: results that the last run found in the cache; the same.
        left_out: images without a result.
        seconds: computing time of all runs; none where it is not known.
        time: the same in words.
        finished: date and time (UTC) of the last run.
        choices: what distinguishes it, in a few words.
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
    now: int | None
    found: int | None
    left_out: int
    seconds: float | None
    time: str
    finished: str
    choices: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Step:
    """A stage of all splits and networks: its name, images and computing time, in words."""

    stage: str
    images: str
    time: str


@dataclass(frozen=True)
class ClassRow:
    """What was measured of one label.

    Attributes:
        label: 0 for the background.
        name: its name.
        tagged: images of the split that have it as a tag; none for the background.
        positives: images that show it; none where that was not measured.
        values: stage → AP of tags or IoU, in [0, 1]; none where there is none.
    """

    label: int
    name: str
    tagged: int | None
    positives: int | None
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Failure:
    """An image that was left out of something, and why."""

    stage: str
    split: str
    image_id: str
    reason: str


def find_figures(metrics: MetricsFile, material: Material) -> dict[str, dict[str, Any]]:
    """Returns stage → what was measured of the very folders that the page shows."""
    folders = (material.tags, material.cams, material.masks, material.predictions)
    found = {f.stage: metrics.find(f.stage, f.split, f.key) for f in folders if f is not None}
    return {stage: figures for stage, figures in found.items() if figures is not None}


def headlines(figures: Mapping[str, Mapping[str, Any]]) -> list[Headline]:
    """Returns the figure that stands for each stage."""
    return [
        Headline(label, metric, percent(found[key]), found["images"], found["split"])
        for stage, key, label, metric in _HEADLINES
        if (found := figures.get(stage))
    ]


def stage_rows(folders: Iterable[StageFolder], root: str) -> list[StageRow]:
    """Returns what the manifests of folders say, without those in which nothing was done yet.

    Args:
        folders: in the order of the pipeline.
        root: the output folder.
    """
    rows = []
    for folder in folders:
        manifest = folder.manifest()
        if not manifest and not folder.entries and not folder.failures:
            continue
        per_image = folder.split != ""
        last = manifest.get("last", {})
        rows.append(
            StageRow(
                stage=folder.stage,
                split=folder.split,
                key=folder.key,
                path=str(folder.path).removeprefix(root).lstrip("/"),
                complete=is_complete(manifest),
                images=manifest.get("images"),
                cached=len(folder.entries) if per_image else None,
                computed=manifest.get("computed"),
                now=last.get("computed"),
                found=last.get("cached"),
                left_out=len(folder.failures),
                seconds=manifest.get("seconds"),
                time=in_words(manifest.get("seconds")),
                finished=str(manifest.get("finished", "–"))[:16].replace("T", " "),
                choices=describe(dict(folder.configuration)),
                versions={
                    **manifest.get("versions", {}),
                    **({"host": manifest["host"]} if "host" in manifest else {}),
                },
            )
        )
    return rows


def steps(rows: Iterable[StageRow]) -> list[Step]:
    """Returns the stages of the pipeline, each with what it did in all splits."""
    found: dict[str, list[StageRow]] = {}
    for row in rows:
        found.setdefault(row.stage, []).append(row)
    return [
        Step(
            stage,
            f"{sum(row.images or 0 for row in of_stage):,}",
            in_words(sum(row.seconds or 0 for row in of_stage)),
        )
        for stage, of_stage in found.items()
    ]


def class_rows(
    figures: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    images: Sequence[ImageFigures],
) -> list[ClassRow]:
    """Returns how often every class was tagged, and its AP and IoU where they were measured.

    Args:
        figures: stage → what was measured.
        classes: the n class names.
        images: those of the split.

    Returns:
        The background, where anything was measured of it, and the classes; nothing where images
        were neither tagged nor measured.
    """
    tagged = Counter(index for image in images for index in image.tags or ())
    if not figures and not tagged:
        return []
    segmented = any(stage != "tags" for stage in figures)
    rows = [_class_row(0, BACKGROUND, None, figures)] if segmented else []
    return rows + [
        _class_row(index + 1, name, tagged[index], figures) for index, name in enumerate(classes)
    ]


def _class_row(
    label: int, name: str, tagged: int | None, figures: Mapping[str, Mapping[str, Any]]
) -> ClassRow:
    # A class may be called as the background is, which has no tags.
    found = {
        stage: measured["per_class"].get(name, {})
        for stage, measured in figures.items()
        if label or stage != "tags"
    }
    positives = found.get("tags", {}).get("positives")
    values = {stage: row.get("iou") for stage, row in found.items()}
    if "tags" in found:
        values["tags"] = found["tags"].get("ap") if positives else None
    return ClassRow(label, name, tagged, positives, values)


def list_failures(material: Material, problems: Mapping[str, str]) -> Iterator[Failure]:
    """Yields what every stage left out, and what this page cannot show.

    Args:
        material: where everything lies.
        problems: id → reason, of the page itself; read when it is come to.
    """
    for folder in material.stages:
        for image_id, reason in sorted(folder.failures.items()):
            yield Failure(folder.stage, folder.split, image_id, reason)
    for image_id, reason in sorted(problems.items()):
        yield Failure("report", material.split, image_id, reason)


def common_versions(rows: Iterable[StageRow]) -> dict[str, list[str]]:
    """Returns package → the versions that occur in the stages, in their order."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for package, version in row.versions.items():
            versions = found.setdefault(package, [])
            if version not in versions:
                versions.append(version)
    return found


def in_words(seconds: float | None) -> str:
    """Returns a duration as a person says it, or a dash."""
    if seconds is None:
        return "–"
    if seconds < _SECONDS_IN_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _SECONDS_IN_MINUTE)
    if minutes < _MINUTES_IN_HOUR:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, _MINUTES_IN_HOUR)
    return f"{hours} h {minutes:02d} min"
