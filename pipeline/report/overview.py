"""What a page shows of the whole run: headline figures, stages, classes, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.datasets.vocabulary import BACKGROUND
from pipeline.engine.store import StageFolder, is_complete
from pipeline.evaluation.record import MetricsFile
from pipeline.report.material import Material
from pipeline.report.measured import ImageFigures
from pipeline.report.runs import MAIN_METRIC, METRIC_LABELS
from pipeline.report.status import describe, finished_at

_TITLES = {
    "tags": "tags",
    "cams": "class activation maps",
    "masks": "pseudo masks",
    "predictions": "segmenter",
}

Figures = Mapping[str, Mapping[str, Any]]
"""Stage → its entry of ``metrics.json``."""


def find_figures(metrics: MetricsFile, material: Material) -> Figures:
    """Returns the figures of exactly the folders that the page shows."""
    folders = (material.tags, material.cams, material.masks, material.predictions)
    entries = {f.stage: metrics.find(f.stage, f.split, f.key) for f in folders if f is not None}
    return {stage: entry for stage, entry in entries.items() if entry is not None}


def headlines(figures: Figures) -> list[dict[str, Any]]:
    """Returns the main figure of each stage, in [0, 1], and the images that were measured."""
    return [
        {
            "title": title,
            "metric": METRIC_LABELS[MAIN_METRIC[stage]],
            "value": figures[stage][MAIN_METRIC[stage]],
            "images": figures[stage]["images"],
            "split": figures[stage]["split"],
        }
        for stage, title in _TITLES.items()
        if stage in figures
    ]


def stage_rows(folders: Iterable[StageFolder], root: str) -> list[dict[str, Any]]:
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
            {
                "stage": folder.stage,
                "split": folder.split,
                "key": folder.key,
                "path": str(folder.path).removeprefix(root).lstrip("/"),
                "complete": is_complete(manifest),
                "images": manifest.get("images"),
                "cached": len(folder.entries) if folder.split else None,
                "computed": manifest.get("computed"),
                "last_computed": last.get("computed"),
                "last_cached": last.get("cached"),
                "left_out": len(folder.failures),
                "seconds": manifest.get("seconds"),
                "finished": finished_at(manifest) or "–",
                "choices": describe(folder.configuration),
                "versions": manifest.get("versions", {}) | host,
            }
        )
    return rows


def steps(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    """Returns the stages of the pipeline, each with the images and seconds of all its splits."""
    images, seconds = Counter(), Counter()
    for row in rows:
        images[row["stage"]] += row["images"] or 0
        seconds[row["stage"]] += row["seconds"] or 0
    return [(stage, images[stage], seconds[stage]) for stage in images]


def class_rows(
    figures: Figures, classes: Sequence[str], images: Sequence[ImageFigures]
) -> list[dict[str, Any]]:
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
    rows = []
    for label, name in enumerate((BACKGROUND, *classes)):
        # The background has no tags, even if a class has its name.
        of_class = {
            stage: entry["per_class"].get(name, {})
            for stage, entry in figures.items()
            if label or stage != "tags"
        }
        if not label and not of_class:
            continue
        positives = of_class.get("tags", {}).get("positives")
        measures = {stage: entry.get("iou") for stage, entry in of_class.items()}
        if "tags" in of_class:
            measures["tags"] = of_class["tags"].get("ap") if positives else None
        rows.append(
            {
                "label": label,
                "name": name,
                "tagged": tagged[label - 1] if label else None,
                "positives": positives,
                "measures": measures,
            }
        )
    return rows


def list_failures(
    material: Material, problems: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yields stage, split, image and reason of what the stages and this page left out.

    Args:
        material: the stages.
        problems: id → reason, of the page itself; read after the failures of the stages.
    """
    for folder in material.stages:
        for image_id, reason in sorted(folder.failures.items()):
            yield folder.stage, folder.split, image_id, reason
    for image_id, reason in sorted(problems.items()):
        yield "report", material.split, image_id, reason


def common_versions(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns package → the versions that occur in the stages, in their order."""
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for package, version in row["versions"].items():
            versions.setdefault(package, {})[version] = None
    return {package: list(of_package) for package, of_package in versions.items()}
