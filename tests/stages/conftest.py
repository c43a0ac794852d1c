"""Runs on the photographs, with what a person corrected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from tests.small_runs import TINY_SEGMENTER, Finished, latest

CLASSES = ("cat", "person", "rocket", "cup")
E = "holiday 2026/e f"
SIZES = {"a": (90, 70), "b": (64, 96), "c": (90, 70), "d": (64, 96), E: (90, 70)}
UP_TO_MASKS = "stage=[tags,cams,masks]"
TRAINED = [*TINY_SEGMENTER, "segmenter.pretrained=none", "stage=[tags,cams,masks,train]"]


def draw(image_id: str, *labels: int, margin: int = 10) -> np.ndarray:
    """Returns a mask of an image with a rectangle for each label, side by side."""
    mask = np.zeros(SIZES[image_id], np.uint8)
    for place, label in enumerate(labels):
        mask[margin : margin + 20, 20 * place : 20 * place + 15] = label
    return mask


def keep(folder: Path, image_id: str, mask: np.ndarray) -> None:
    """Writes a mask as a PNG."""
    path = folder / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(mask))


class Runs:
    """Runs stages on the photographs; called, it returns stage → computed, cached, reused.

    ``begin`` copies what such a run leaves behind, if another test has done the same.
    """

    def __init__(
        self,
        run_stage: Callable[..., Finished],
        finish: Callable[..., Path],
        arguments: list[str],
        folder: Path,
    ):
        self._run_stage, self.begin, self._arguments = run_stage, finish, arguments
        self._folder = folder
        self.out, self.mine = folder / "out", folder / "mine"  # what a person's masks lie in

    def __call__(self, *more: str, code: int = 0) -> dict[str, tuple[int, int, int]]:
        own = self._arguments
        if "tags=file" in more:
            own = [each for each in own if not each.startswith("tags.")]
        finished = self._run_stage(*own, *more)
        assert finished.code == code, finished.errors
        self.errors, self.output = finished.errors, finished.output
        return finished.counts

    def corrected(self, kind: str, shown: Mapping[str, Sequence[int]], name: str = "mine") -> str:
        """Writes which classes images show, as tags or as masks; returns the option for them."""
        path = self._folder / name
        if kind == "tags":
            path = path.with_suffix(".csv")
            cells = ((i, ";".join(CLASSES[k] for k in classes)) for i, classes in shown.items())
            lines = "".join(f"{i},{names}\r\n" for i, names in cells)
            path.write_text(f"id,classes\r\n{lines}")
        for image_id, classes in shown.items() if kind == "masks" else ():
            keep(path, image_id, draw(image_id, *(k + 1 for k in classes)))
        return f"{kind}.corrections={path}"

    def folder(self, stage: str = "masks", split: str = "all") -> Path:
        """Returns the newest folder of a stage."""
        return latest(self.out, stage, split).resolve()

    def manifest(self, stage: str = "masks", split: str = "all") -> dict[str, Any]:
        """Returns the manifest of the newest folder of a stage."""
        return json.loads((self.folder(stage, split) / "manifest.json").read_text())

    def figures(self, stage: str) -> dict[str, Any]:
        """Returns what was measured of a stage."""
        return json.loads((self.out / "metrics.json").read_text())["latest"][stage]["all"]

    def mask(self, image_id: str, below: str = "") -> np.ndarray:
        """Returns the newest mask of an image."""
        return read_labels(self.folder() / below / f"{image_id}.png")

    def entries(self, key: str = "tags", folder: Path | None = None) -> dict[str, Any]:
        """Returns what the tags in a folder, or the newest ones, say of each image."""
        lines = ((folder or self.folder("tags")) / "entries.jsonl").read_text().splitlines()
        return {entry["id"]: entry.get(key) for entry in map(json.loads, lines)}


@pytest.fixture
def runs(
    run_stage: Callable[..., Finished],
    finish: Callable[..., Path],
    arguments: list[str],
    tmp_path: Path,
) -> Runs:
    """Runs stages, with corrections if they are given."""
    return Runs(run_stage, finish, arguments, tmp_path)


@pytest.fixture
def demo(run_stage: Callable[..., Finished], tmp_path: Path) -> Callable[..., Finished]:
    """Plans the demo, which has several splits."""
    given = ["dataset=demo", "clip=demo", "tags=ground_truth", "dataset.limit=2", "dry_run=true"]
    return lambda *more: run_stage(*given, f"output_dir={tmp_path / 'out'}", *more)
