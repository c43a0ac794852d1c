"""``metrics.json``: what was measured, and on what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from pipeline.engine.store import StageFolder
from pipeline.files.atomic import read_json, write_atomically


def update_metrics(path: Path, changes: Iterable[Callable[[MetricsFile], None]]) -> None:
    """Changes the file as it is now, which other runs may have written to in the meantime.

    Raises:
        UserError: it cannot be written.
    """
    with FileLock(path.with_name(".metrics.lock")):
        file = MetricsFile(path)
        for change in changes:
            change(file)
        file.save()


class MetricsFile:
    """``metrics.json``: the latest figures, and every run's with its configuration."""

    def __init__(self, path: Path):
        """Reads the file, or starts an empty one."""
        self.path = path
        content = read_json(path) or {}
        self.latest: dict = content.get("latest", {})
        self.runs: list[dict] = content.get("runs", [])

    def find(self, stage: str, split: str, key: str) -> dict | None:
        """Returns the run of a key, if it was measured."""
        wanted = (stage, split, key)
        return next((r for r in self.runs if (r["stage"], r["split"], r["key"]) == wanted), None)

    def put(
        self, folder: StageFolder, input_key: str, figures: Mapping, about: Mapping[str, str]
    ) -> None:
        """Records a folder's figures as the latest of its stage and split.

        Args:
            input_key: the fingerprint of the inputs of the images that were measured.
            about: see :func:`pipeline.evaluation.about.describe`.
        """
        old = self.find(folder.stage, folder.split, folder.key) or {}
        # One configuration may belong to several experiments; a later one must not take it away.
        experiments = {*old.get("experiments", ()), about["experiment"]} - {""}
        self.latest.setdefault(folder.stage, {})[folder.split] = {"key": folder.key, **figures}
        run = {
            "stage": folder.stage,
            "split": folder.split,
            "key": folder.key,
            "input": input_key,
            "experiments": sorted(experiments),
            "about": {**about, "commit": folder.manifest().get("versions", {}).get("commit", "")},
            **figures,
            "configuration": folder.configuration,
        }
        self.runs = [r for r in self.runs if r is not old] + [run]

    def drop_latest(self, folder: StageFolder) -> None:
        """Forgets the latest figures of a stage and split that have no ground truth now."""
        self.latest.get(folder.stage, {}).pop(folder.split, None)

    def save(self) -> None:
        """Writes the file; see :func:`update_metrics` for changes that others may make, too."""
        latest = {stage: splits for stage, splits in self.latest.items() if splits}
        content = {"latest": latest, "runs": self.runs}
        write_atomically(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
