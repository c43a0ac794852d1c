"""Two small runs on the same photographs, as a run leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import encode_line
from pipeline.report.page.images import ReportInputs
from pipeline.stages.config import compose, read_config, record
from tests.report.small_run import CLASSES, build_run

IDS = [str(k) for k in range(6)]


def build_two(root: Path, classes: list[str] = CLASSES, *, truth: bool = True) -> list[Path]:
    """Returns the output directories of two runs, A and B.

    B's predictions are A's of another image in image 1, and the ground truth in images 4 and 5. Its
    tags lack image 0's, and have a class more in image 2. Both were made with other settings.
    """
    runs = [build_run(root / name, IDS, classes, split="all") for name in ("first", "second")]
    for run in runs:
        write_record(run, root / "first", classes, truth=truth)
    _, b = runs
    predictions = b.results["predictions"].path
    (predictions / "1.png").write_bytes((predictions / "0.png").read_bytes())
    for name in ("4.png", "5.png"):
        (predictions / name).write_bytes((b.results["masks"].path / name).read_bytes())
    record_files(predictions)
    change_entries(b.results["tags"].path, lambda entry: {"tags": RETAGGED.get(entry["id"])})
    for run, alpha in zip(runs, (0.5, 0.25)):
        for path in run.root.glob("*/*/*/manifest.json"):
            manifest = json.loads(path.read_text())
            manifest["configuration"]["alpha"] = alpha
            path.write_text(json.dumps(manifest))
    return [run.root for run in runs]


RETAGGED = {"0": [], "2": [0, 2]}


def write_record(run: ReportInputs, place: Path, classes: list[str], *, truth: bool) -> None:
    """Writes the ``config.yaml`` of a run on the photographs in a folder."""
    given = ["dataset=folder", f"dataset.root={place / 'photographs'}", "cams.background_betas=[2]"]
    given += [f"dataset.masks={place / 'truth'}"] * truth
    config = compose([*given, "dataset.classes=[x]", "clip=demo"])
    config.dataset.classes = classes
    (run.root / "config.yaml").write_text(record(read_config(config)), encoding="utf-8")


def record_files(folder: Path) -> None:
    """Records the files of a folder as they are now."""

    def files_of(entry: dict) -> dict:
        names = entry.get("files", {})
        return {"files": {name: fingerprint((folder / name).read_bytes()) for name in names}}

    change_entries(folder, files_of)


def change_entries(folder: Path, change: Callable[[dict], dict]) -> None:
    """Changes what is recorded of images; values of none stay as they are."""
    path = folder / "entries.jsonl"
    lines = []
    for line in path.read_bytes().splitlines():
        entry = json.loads(line)
        del entry["sum"]
        changes = {key: value for key, value in change(entry).items() if value is not None}
        lines.append(encode_line(entry | changes))
    path.write_bytes(b"".join(lines))
