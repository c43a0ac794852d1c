"""Runs that lead to one another, as the leaderboard reads them, and the cells of its tables."""

from __future__ import annotations

import json
import random
from pathlib import Path

from pipeline.report.tables.runs import MeasuredRun, read_runs
from tests.report.measured import measured, rows_of, write_runs

ABOUT = {"dataset": "crowded", "clip": "demo", "pretrained": "demo", "commit": "c0ffee"}
SPLITS = ("choose", "easy", "hard", "report", "report_2")  # on which a run has the same keys
CLIP = {"weights": "f00", "precision": "fp32"}


class Chain:
    """Entries of ``metrics.json`` of one combination, each stage from the one before it."""

    def __init__(self, tags: str = "tagclip", image_set: str = "a1", **about: str):
        self.about = {**ABOUT, "tags": tags, **about}
        self.shared = {"image_set": image_set, "per_class": {"cat": {}, "dog": {}}}
        self.entries: list[dict] = []
        self.settings: dict = {}
        self.names: list[str] = []  # of the last stage first

    def then(
        self, stage: str, settings: dict, named: dict | None = None, **figures: object
    ) -> Chain:
        self.about |= named or {}
        before = {self.entries[-1]["stage"]: self.settings} if self.entries else {}
        if stage == "predictions":
            settings, before = {"segmenter": {**settings, **before}}, {}
        self.settings = {**settings, **before}
        images = int(figures.pop("images", 500))
        entry = measured(stage, figures.pop("split", "report"), images, self.about, **figures)
        shared = {name: value for name, value in self.shared.items() if name not in figures}
        key = json.dumps(self.settings, sort_keys=True)
        self.names = [f"{stage}/{key}", *self.names]
        same = {"counterparts": [dict.fromkeys(SPLITS, self.names)], "configuration": self.settings}
        self.entries.append({**entry, **shared, "key": key, **same})
        return self

    def tags(self, value: float, alpha: float = 0.5, **figures: object) -> Chain:
        settings = {"method": self.about["tags"], "alpha": alpha, "clip": CLIP}
        return self.then("tags", settings, map=value, f1=value / 2, **figures)

    def cams(self, name: str, value: float, affinity: bool = False, **figures: object) -> Chain:
        settings = {"method": name, "affinity": affinity, "clip": CLIP}
        return self.then("cams", settings, {"cams": name}, miou=value, **figures)

    def masks(self, name: str, value: float, crf: object = None, **figures: object) -> Chain:
        settings = {"method": name, **({"crf": crf} if name == "crf" else {})}
        return self.then("masks", settings, {"masks": name}, miou=value, **figures)


def runs_of(tmp_path: Path, *chains: Chain, shuffled: bool = True) -> list[MeasuredRun]:
    entries = [entry for chain in chains for entry in chain.entries]
    if shuffled:
        random.Random(0).shuffle(entries)
    runs, problems = read_runs([write_runs(tmp_path / "metrics.json", *entries)])
    assert not problems
    return runs


def cells(text: str) -> list[list[str]]:
    return [row for row in rows_of(text, "") if not row[0].startswith("--")]
