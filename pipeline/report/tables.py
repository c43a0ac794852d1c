"""``tables.md``: the figures of ``metrics.json``, a table for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import canonical_json, write_atomically
from pipeline.report.markdown import Table, percent
from pipeline.report.runs import flatten, has_seen_masks

Settings = Mapping[str, Any]

_VARIANTS = {
    "clip": "CLIP, class token, image squeezed to the native size",
    "clip_native": "CLIP, class token, image at its own size",
    "coarse_last": "best patch, last block's attention kept",
    "coarse": "best patch, last block's attention the identity (coarse)",
    "dmar": "coarse + DMAR",
    "cwr": "coarse + DMAR + CWR (TagCLIP)",
}
"""The rows of the ablation, in the order of the paper."""

_STAGES = {
    "cams": "class activation maps",
    "masks": "pseudo masks",
    "predictions": "segmenter, trained on pseudo masks",
}
_STEPS = {"single_scale": "at one scale", "multi_scale": "at several scales, before the CRF"}
"""The steps of testing before the last."""


def write_tables(path: Path, metrics: MetricsFile) -> Path:
    """Writes the tables of what was measured, and returns their path."""
    sections = [table.as_markdown() for table in collect_tables(metrics)]
    text = "\n".join(sections) or "Nothing was measured: the images have no ground truth.\n"
    write_atomically(path, "# Results\n\n" + text)
    return path


def collect_tables(metrics: MetricsFile) -> list[Table]:
    """Returns the tables of what was measured, without empty ones."""
    rounds = collect_rounds(metrics)
    tables = [
        _tagging(metrics),
        _ablation(metrics),
        Table("Segmentation", ["", "split", "images", "mIoU (%)"], list(_segmentation(metrics))),
        _seeds(metrics),
        *([rounds] if rounds else []),
    ]
    return [table for table in tables if table.rows]


def _tagging(metrics: MetricsFile) -> Table:
    header = ["split", "images", "mAP", "F1", "precision", "recall"]
    rows = [
        [split + level, _images(of_split)]
        + [percent(figures[metric]) for metric in ("map", "f1", "precision", "recall")]
        for split, of_split in metrics.latest.get("tags", {}).items()
        for level, figures in _by_level(of_split)
    ]
    return Table("Tags (%)", header, rows)


def _ablation(metrics: MetricsFile) -> Table:
    splits = {k: f for k, f in metrics.latest.get("tags", {}).items() if f.get("variants")}
    header = ["mAP (%)", *(f"{split}, {f['images']} images" for split, f in splits.items())]
    rows = [
        [label, *(percent(f["variants"].get(name, {}).get("map")) for f in splits.values())]
        for name, label in _VARIANTS.items()
        if any(name in f["variants"] for f in splits.values())
    ]
    return Table("Tagging, step by step", header, rows)


def _segmentation(metrics: MetricsFile) -> Iterator[list[str]]:
    for stage, label in _STAGES.items():
        for split, figures in metrics.latest.get(stage, {}).items():
            where = [split, _images(figures)]
            for level, of_level in _by_level(figures):
                yield [label + _remark(figures) + level, *where, percent(of_level["miou"])]
            variants = figures.get("variants", {})
            for step, words in _STEPS.items():
                if step in variants:
                    miou = percent(variants[step]["miou"])
                    yield [f"the same segmenter, {words}", *where, miou]
            if "ceiling" in variants:
                fully_supervised = variants["ceiling"]["miou"]
                share = percent(figures["miou"] / fully_supervised)
                words = f"trained on the ground truth (share reached: {share}%)"
                yield [f"the same segmenter, {words}", *where, percent(fully_supervised)]


def _remark(figures: Mapping[str, Any]) -> str:
    if "chosen_by_ground_truth" in figures:
        return f", background chosen by ground truth (β={figures['background_beta']})"
    kept = f", {percent(figures['kept'])}% of the pixels kept" if "kept" in figures else ""
    return kept + " (its initial weights have seen masks)" * has_seen_masks(figures)


def _seeds(metrics: MetricsFile) -> Table:
    """Returns the mean of the runs of a segmenter that differ in nothing but the seed."""
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for run in metrics.runs:
        if run["stage"] == "predictions":
            settings = flatten(run["configuration"]).items()
            same = canonical_json({k: v for k, v in settings if k.rpartition(".")[2] != "seed"})
            groups.setdefault((run["split"], same), []).append(run)
    rows = []
    for (split, _), runs in groups.items():
        if len(runs) > 1:
            values = [100 * run["miou"] for run in runs]
            segmenters = [run["configuration"]["segmenter"] for run in runs]
            seeds = ", ".join(str(segmenter["seed"]) for segmenter in segmenters)
            spread = f"{mean(values):.1f} ± {stdev(values):.1f}"
            rows.append([segmenters[0]["name"], split, _images(runs[0]), seeds, spread])
    header = ["segmenter", "split", "images", "seeds", "mIoU (%), mean ± standard deviation"]
    return Table("Over seeds", header, rows)


def _by_level(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    levels = enumerate(figures.get("levels", []), 1)
    above = [(f", level {n} ({len(f['per_class'])} names)", f) for n, f in levels]
    return [("", figures), *above]


def _images(figures: Mapping[str, Any]) -> str:
    """Returns how many images were measured, and how many lacked usable ground truth."""
    left_out = figures.get("left_out")
    return f"{figures['images']} ({left_out} left out)" if left_out else str(figures["images"])


# Self-training


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
        for number, (segmenter, masks) in enumerate(rounds):
            for label, value in _figures(runs, segmenter, masks):
                column = columns.setdefault(f"{label}, {split}", [""] * len(rounds))
                column[number] = percent(value)
    rows = [[str(n + 1), *cells] for n, cells in enumerate(zip(*columns.values()))]
    return Table("Rounds of self-training (%)", ["round", *columns], rows)


def _walk_back(segmenter: Settings | None) -> Iterator[tuple[Settings, Settings]]:
    """Yields the settings of segmenter and masks of the rounds that led to it, the last first."""
    while segmenter is not None:
        masks = segmenter["masks"] if isinstance(segmenter["masks"], Mapping) else {}
        yield segmenter, masks
        segmenter = masks.get("segmenter")  # none in the first round


def _figures(
    runs: list[dict], segmenter: Settings, of_round: Settings
) -> Iterator[tuple[str, float]]:
    """Yields the figures of a round on one split, each with the name of its column."""
    if tags := _find(runs, "tags", lambda c: _is_tags_of(c, of_round)):
        yield "tags mAP", tags["map"]
        for number, level in enumerate(tags.get("levels", []), 1):
            yield f"tags mAP level {number}", level["map"]
        yield "tags F1", tags["f1"]
    if masks := _find(runs, "masks", lambda c: c == of_round):
        yield "masks mIoU", masks["miou"]
        yield "pixels kept", masks["kept"]
    if predictions := _find(runs, "predictions", lambda c: c["segmenter"] == segmenter):
        yield "segmenter mIoU", predictions["miou"]


def _find(runs: list[dict], stage: str, fits: Callable[[Mapping], bool]) -> dict | None:
    return next((r for r in runs[::-1] if r["stage"] == stage and fits(r["configuration"])), None)


def _is_tags_of(tags: Settings, masks: Settings) -> bool:
    if "segmenter" in masks:
        return all(tags.get(key) == masks.get(key) for key in ("segmenter", "first_tags"))
    return tags == masks.get("cams", {}).get("tags")
