"""Self-training in a table: what every round's tags, masks and segmenter were worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.evaluation.record import MetricsFile
from pipeline.report.markdown import Table, percent

_SEES = "sees"
"""The key, in later rounds' configurations of tags and masks, of the segmenter that they are of."""


class _Round(NamedTuple):
    """The configurations of one round."""

    segmenter: Mapping[str, Any]
    masks: Mapping[str, Any]


def collect_rounds(metrics: MetricsFile) -> Table | None:
    """Returns the table of the latest segmenter's rounds; none where there is only one.

    Every figure is one of ``metrics.json``; blank where it was not measured.
    """
    latest = {figures.get("key") for figures in metrics.latest.get("predictions", {}).values()}
    # Splits may have been predicted at different times: the newest run is the one to tell of.
    newest = next((run for run in metrics.runs[::-1] if run["key"] in latest), None)
    rounds = list(_walk_back(newest["configuration"]["segmenter"]))[::-1] if newest else []
    if len(rounds) < 2:
        return None
    splits = list(dict.fromkeys(run["split"] for run in metrics.runs))
    columns: dict[str, list[str]] = {}
    for split in splits:
        for number, one in enumerate(rounds):
            for label, value in _figures(metrics, split, one):
                columns.setdefault(f"{label}, {split}", [""] * len(rounds))[number] = value
    header = ["round", *columns]
    rows = [[str(n + 1), *(column[n] for column in columns.values())] for n in range(len(rounds))]
    return Table("Rounds of self-training (%)", header, rows)


def _walk_back(segmenter: Mapping[str, Any]) -> Iterator[_Round]:
    """Yields the rounds that led to a segmenter, the last one first."""
    while True:
        masks = segmenter["masks"]
        masks = masks if isinstance(masks, Mapping) else {}
        yield _Round(segmenter, masks)
        if _SEES not in masks:
            return
        segmenter = masks[_SEES]["segmenter"]


def _figures(metrics: MetricsFile, split: str, one: _Round) -> Iterator[tuple[str, str]]:
    """Yields what was measured of a round, each with the name of its column."""
    runs = [run for run in metrics.runs if run["split"] == split]
    tags = _find(runs, "tags", lambda c: _is_tags_of(c, one.masks))
    if tags is not None:
        yield "tags mAP", percent(tags["map"])
        for number, level in enumerate(tags.get("levels", []), 1):
            yield f"tags mAP level {number}", percent(level["map"])
        yield "tags F1", percent(tags["f1"])
    masks = _find(runs, "masks", lambda c: c == one.masks)
    if masks is not None:
        yield "masks mIoU", percent(masks["miou"])
        yield "pixels kept", percent(masks["kept"])
    predictions = _find(runs, "predictions", lambda c: c["segmenter"] == one.segmenter)
    if predictions is not None:
        yield "segmenter mIoU", percent(predictions["miou"])


def _find(runs: list[dict], stage: str, fits: Callable[[Mapping], bool]) -> dict | None:
    """Returns the newest run of a stage whose configuration fits."""
    return next((r for r in runs[::-1] if r["stage"] == stage and fits(r["configuration"])), None)


def _is_tags_of(tags: Mapping[str, Any], masks: Mapping[str, Any]) -> bool:
    if _SEES in masks:
        return all(tags.get(key) == masks.get(key) for key in (_SEES, "first_tags"))
    return tags == masks.get("cams", {}).get("tags")
