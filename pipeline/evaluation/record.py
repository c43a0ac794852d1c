"""``metrics.json``: what was measured, and on what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from pipeline.engine.folder import StageFolder
from pipeline.files.atomic import read_json, write_atomically


@contextmanager
def changing_metrics(path: Path) -> Iterator[MetricsFile]:
    """Gives ``metrics.json`` as it is now, which other runs may have written to, and writes it.

    Raises:
        UserError: it cannot be written.
    """
    with FileLock(path.with_name(".metrics.lock")):
        yield (file := MetricsFile(path))
        latest = {stage: splits for stage, splits in file.latest.items() if splits}
        content = {"latest": latest, "runs": file.runs}
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class MetricsFile:
    """``metrics.json``: the latest figures, and every run's with its configuration."""

    def __init__(self, path: Path):
        """Reads the file, or starts an empty one."""
        content = read_json(path) or {}
        self.latest: dict = content.get("latest", {})
        self.runs: list[dict] = content.get("runs", [])

    def find(self, stage: str, split: str, key: str) -> dict | None:
        """Returns the run of a key, if it was measured."""
        wanted = (stage, split, key)
        return next((r for r in self.runs if (r["stage"], r["split"], r["key"]) == wanted), None)

    def put(
        self, folder: StageFolder, input_key: str, figures: Mapping | None, about: Mapping[str, str]
    ) -> None:
        """Records a folder's figures as the latest of its stage and split.

        ``input_key`` is the fingerprint of the inputs of the images that were measured. For want of
        ground truth there are no figures, and then no latest ones. For ``about`` see
        :func:`pipeline.evaluation.about.describe`.
        """
        if figures is None:
            self.latest.get(folder.stage, {}).pop(folder.split, None)
            return
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
