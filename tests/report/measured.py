"""Entries of ``metrics.json``, as runs write them, and the rows of tables."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.evaluation.record import MetricsFile
from pipeline.report.tables.latest import write_tables

CRF = {"method": "crf", "crf": {"iterations": 10, "bilateral_sxy": 67}}

KNOWN = {"image_set": "a1", "ground_truth": "labels", "experiments": [""], "settings": {}}
"""What every entry has beside its figures."""


def measured(stage: str, split: str, images: int, about: dict, **figures: object) -> dict:
    """An entry of ``runs``; ``about`` holds what differs from TagCLIP on VOC 2012."""
    usual = {
        "experiment": "",
        "dataset": "voc2012",
        "clip": "vit_b16",
        "pretrained": "openai",
        "tags": "tagclip",
        "compat": "released",
        "precision": "fp32",
        "segmenter": "demo",
        "commit": "0123456789",
    }
    entry = {
        "stage": stage,
        "split": split,
        "key": f"key of {stage} {split} {sorted(figures.items())}",
        "images": images,
        "about": {**usual, **about},
        "configuration": CRF if stage == "masks" else {},
        **KNOWN,
        "ground_truth": "labels" if stage == "tags" else "masks",
        "experiments": [{**usual, **about}["experiment"]],
    }
    return {**entry, **figures}


def voc2007(value: float, images: int = 4952, **about: str) -> dict:
    of = {"dataset": "voc2007", "experiment": "tagclip_voc2007", **about}
    return measured("tags", "test", images, of, map=value, f1=0.8, precision=0.7, recall=0.9)


def write_runs(path: Path, *runs: dict, **latest: dict) -> Path:
    """Writes runs, and by stage its latest figures on split val."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"latest": {stage: {"val": each} for stage, each in latest.items()}, "runs": runs}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tables_of(folder: Path, *runs: dict, **latest: dict) -> str:
    """Returns the tables of what :func:`write_runs` writes to a folder."""
    path = write_runs(folder / "metrics.json", *runs, **latest)
    return write_tables(folder / "tables.md", MetricsFile(path)).read_text()


def rows_of(text: str, beginning: str) -> list[list[str]]:
    """Returns the cells of the table rows that begin with a text."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
