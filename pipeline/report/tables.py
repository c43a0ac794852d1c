"""``tables.md``: the figures of ``metrics.json``, one table a question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.evaluation.record import MetricsFile
from pipeline.files.atomic import write_atomically
from pipeline.files.fingerprints import canonical_json
from pipeline.report.markdown import Table, percent
from pipeline.report.rounds import collect_rounds

TAGGING_ROWS = {
    "clip": "CLIP, class token, image squeezed to the native size",
    "clip_native": "CLIP, class token, image at its own size",
    "coarse_last": "best patch, last block's attention kept",
    "coarse": "best patch, last block's attention the identity (coarse)",
    "dmar": "coarse + DMAR",
    "cwr": "coarse + DMAR + CWR (TagCLIP)",
}
"""The rows of the ablation, in the order of the paper."""


STEPS = {"single_scale": "at one scale", "multi_scale": "at several scales, before the CRF"}
"""The steps of testing before the last."""

_TAGGING_FIGURES = ("map", "f1", "precision", "recall")


def write_tables(path: Path, metrics: MetricsFile) -> Path:
    """Writes the tables of what was measured, and returns their path."""
    sections = [table.as_markdown() for table in collect_tables(metrics)]
    text = "\n".join(sections) or "Nothing was measured: the images have no ground truth.\n"
    write_atomically(path, "# Results\n\n" + text)
    return path


def collect_tables(metrics: MetricsFile) -> list[Table]:
    """Returns the tables of what was measured, without those that would be empty."""
    tables = [_tagging(metrics), _ablation(metrics), _segmentation(metrics)]
    tables += [_seeds(metrics), collect_rounds(metrics)]
    return [table for table in tables if table is not None]


def _tagging(metrics: MetricsFile) -> Table | None:
    splits = metrics.latest.get("tags", {})
    if not splits:
        return None
    rows = [
        [split + level, _images(f), *(percent(figures[k]) for k in _TAGGING_FIGURES)]
        for split, f in splits.items()
        for level, figures in _by_level(f)
    ]
    header = ["split", "images", "mAP", "F1", "precision", "recall"]
    return Table("Tags (%)", header, rows)


def _by_level(figures: Mapping) -> list[tuple[str, Mapping]]:
    """Returns the figures of the classes, and of what they are called one and more levels up."""
    levels = enumerate(figures.get("levels", []), 1)
    above = [(f", level {n} ({len(f['per_class'])} names)", f) for n, f in levels]
    return [("", figures), *above]


def _images(figures: Mapping) -> str:
    """Says how many images were measured, and of how many the ground truth could not be used."""
    left_out = figures.get("left_out")
    return f"{figures['images']} ({left_out} left out)" if left_out else str(figures["images"])


def _ablation(metrics: MetricsFile) -> Table | None:
    splits = {k: f for k, f in metrics.latest.get("tags", {}).items() if f.get("variants")}
    if not splits:
        return None
    rows = [
        [label, *(percent(f["variants"].get(name, {}).get("map")) for f in splits.values())]
        for name, label in TAGGING_ROWS.items()
        if any(name in f["variants"] for f in splits.values())
    ]
    header = ["mAP (%)", *(f"{split}, {f['images']} images" for split, f in splits.items())]
    return Table("Tagging, step by step", header, rows)


def _segmentation(metrics: MetricsFile) -> Table | None:
    labels = {
        "cams": "class activation maps",
        "masks": "pseudo masks",
        "predictions": "segmenter, trained on pseudo masks",
    }
    rows = []
    for stage, label in labels.items():
        for split, figures in metrics.latest.get(stage, {}).items():
            note = f", {percent(figures['kept'])}% of the pixels kept" if "kept" in figures else ""
            if (figures.get("initial_weights") or {}).get("seen_masks"):
                note += " (its initial weights have seen masks)"
            if "chosen_by_ground_truth" in figures:
                note = f", background chosen by ground truth (β={figures['background_beta']})"
            images = _images(figures)
            for level, found in _by_level(figures):
                rows.append([label + note + level, split, images, percent(found["miou"])])
            for step, label_of_step in STEPS.items():
                if step in figures.get("variants", {}):
                    value = percent(figures["variants"][step]["miou"])
                    rows.append([f"the same segmenter, {label_of_step}", split, images, value])
            ceiling = figures.get("variants", {}).get("ceiling")
            if ceiling:
                share = (
                    f"the same segmenter, trained on the ground truth (share reached: "
                    f"{percent(figures['miou'] / ceiling['miou'])}%)"
                )
                rows.append([share, split, _images(figures), percent(ceiling["miou"])])
    if not rows:
        return None
    return Table("Segmentation", ["", "split", "images", "mIoU (%)"], rows)


def _seeds(metrics: MetricsFile) -> Table | None:
    """Sums up runs of the segmenter that differ in nothing but the seed."""
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for run in metrics.runs:
        if run["stage"] == "predictions":
            same = canonical_json(without_seed(run["configuration"]))
            groups.setdefault((run["split"], same), []).append(run)
    rows = []
    for (split, _), runs in groups.items():
        if len(runs) < 2:
            continue
        values = [run["miou"] for run in runs]
        seeds = ", ".join(str(run["configuration"]["segmenter"]["seed"]) for run in runs)
        name = str(runs[0]["configuration"]["segmenter"]["name"])
        spread = f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"
        rows.append([name, split, _images(runs[0]), seeds, spread])
    if not rows:
        return None
    header = ["segmenter", "split", "images", "seeds", "mIoU (%), mean ± standard deviation"]
    return Table("Over seeds", header, rows)


def without_seed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration in which runs that differ in their seed alone are equal."""
    return {
        key: without_seed(value) if isinstance(value, Mapping) else value
        for key, value in configuration.items()
        if key != "seed"
    }
