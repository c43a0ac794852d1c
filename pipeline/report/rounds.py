"""Self-training in a table: the quality of the tags, masks and segmenter of every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.evaluation.record import MetricsFile
from pipeline.report.markdown import Table, percent


class _Round(NamedTuple):
    """The configurations of one round."""

    segmenter: Mapping[str, Any]
    masks: Mapping[str, Any]


def collect_rounds(metrics: MetricsFile) -> Table | None:
    """Returns the table of the rounds that led to the latest segmenter, or none for a single one.

    Its figures are those of ``metrics.json``, blank where nothing was measured.
    """
    latest = {figures.get("key") for figures in metrics.latest.get("predictions", {}).values()}
    # Splits may have been predicted by different segmenters: the newest run counts.
    newest = next((run for run in metrics.runs[::-1] if run["key"] in latest), None)
    rounds = list(_walk_back(newest["configuration"]["segmenter"]))[::-1] if newest else []
    if len(rounds) < 2:
        return None
    columns: dict[str, list[str]] = {}
    for split in dict.fromkeys(run["split"] for run in metrics.runs):
        runs = [run for run in metrics.runs if run["split"] == split]
        for number, configurations in enumerate(rounds):
            for label, value in _figures(runs, configurations):
                column = columns.setdefault(f"{label}, {split}", [""] * len(rounds))
                column[number] = percent(value)
    rows = [[str(n + 1), *cells] for n, cells in enumerate(zip(*columns.values()))]
    return Table("Rounds of self-training (%)", ["round", *columns], rows)


def _walk_back(segmenter: Mapping[str, Any]) -> Iterator[_Round]:
    """Yields the rounds that led to a segmenter, the last one first."""
    while True:
        masks = segmenter["masks"]
        masks = masks if isinstance(masks, Mapping) else {}
        yield _Round(segmenter, masks)
        if "segmenter" not in masks:  # masks of the first round
            return
        segmenter = masks["segmenter"]


def _figures(runs: list[dict], of_round: _Round) -> Iterator[tuple[str, float]]:
    """Yields the figures of a round on one split, each with the name of its column."""
    masks_of_round = of_round.masks
    if tags := _find(runs, "tags", lambda c: _is_tags_of(c, masks_of_round)):
        yield "tags mAP", tags["map"]
        for number, level in enumerate(tags.get("levels", []), 1):
            yield f"tags mAP level {number}", level["map"]
        yield "tags F1", tags["f1"]
    if masks := _find(runs, "masks", lambda c: c == masks_of_round):
        yield "masks mIoU", masks["miou"]
        yield "pixels kept", masks["kept"]
    if predictions := _find(runs, "predictions", lambda c: c["segmenter"] == of_round.segmenter):
        yield "segmenter mIoU", predictions["miou"]


def _find(runs: list[dict], stage: str, fits: Callable[[Mapping], bool]) -> dict | None:
    """Returns the newest run of a stage whose configuration fits."""
    return next((r for r in runs[::-1] if r["stage"] == stage and fits(r["configuration"])), None)


def _is_tags_of(tags: Mapping[str, Any], masks: Mapping[str, Any]) -> bool:
    if "segmenter" in masks:
        return all(tags.get(key) == masks.get(key) for key in ("segmenter", "first_tags"))
    return tags == masks.get("cams", {}).get("tags")
