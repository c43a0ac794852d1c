"""``tables.md``: the figures of ``metrics.json``, a table for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import canonical_json
from pipeline.report.markdown import Table, percent
from pipeline.report.rounds import collect_rounds
from pipeline.report.runs import has_seen_masks

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
    """Returns the mean over runs of the segmenter that differ in nothing but the seed."""
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for run in metrics.runs:
        if run["stage"] == "predictions":
            same = canonical_json(_without_seed(run["configuration"]))
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


def _without_seed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_seed(value) if isinstance(value, Mapping) else value
        for key, value in configuration.items()
        if key != "seed"
    }


def _by_level(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the figures of the classes, and of their names one and more levels up."""
    levels = enumerate(figures.get("levels", []), 1)
    above = [(f", level {n} ({len(f['per_class'])} names)", f) for n, f in levels]
    return [("", figures), *above]


def _images(figures: Mapping[str, Any]) -> str:
    """Returns how many images were measured, and how many lacked usable ground truth."""
    left_out = figures.get("left_out")
    return f"{figures['images']} ({left_out} left out)" if left_out else str(figures["images"])
