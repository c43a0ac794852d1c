"""A stage of a kind of its own is measured, shown and exported, without an entry in any list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.engine import kinds
from pipeline.engine.kinds import MASKS, Kind
from pipeline.engine.stage import Item, Output, PerImage
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.report.tables.leaderboard import collect_boards
from pipeline.report.tables.runs import read_runs
from pipeline.stages import builder, pipeline
from tests.report.html_page import Page

EDGES = Kind(
    "edges", "outlines", "outlines of masks", holds="labels", figures={"mIoU edges": "miou"}
)
PALETTE = [(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Edges(PerImage):
    """Labels a mask with the first class, apart from its margin."""

    name = command = "edges"
    kind = EDGES

    def own_settings(self) -> dict:
        return {"margin": 3}

    def item(self, sample, folders) -> Item:
        read = {"masks": folders["masks"].result_of(sample.id)}
        return super().item(sample, folders).reading(read, folders["masks"].path)

    def compute(self, images, model):
        for item, _ in images:
            labels = np.zeros_like(read_labels(item.given / f"{item.sample.id}.png"))
            labels[3:-3, 3:-3] = 1
            yield item, {"edges": Output({f"{item.sample.id}.png": encode_png(labels, PALETTE)})}


@pytest.fixture
def edges(monkeypatch):
    """Adds the stage to the pipeline for the time of a test."""
    place = kinds.kinds().index(MASKS) + 1
    listed = (*kinds.kinds()[:place], EDGES, *kinds.kinds()[place:])
    monkeypatch.setattr(kinds, "_KINDS", listed)
    monkeypatch.setitem(
        builder.PER_SPLIT,
        "edges",
        lambda own, split, before: Edges(
            split=split, reader=own.reader, before={"masks": before["masks"]}
        ),
    )
    first, last = pipeline.COMMANDS[:3], pipeline.COMMANDS[3:]
    monkeypatch.setattr(pipeline, "COMMANDS", (*first, "edges", *last))


def write_truth(photographs: Path, folder: Path) -> Path:
    """Writes a ground truth whose label 1 covers the upper half of each photograph."""
    for path in photographs.rglob("*.*"):
        with Image.open(path) as image:
            labels = np.zeros((image.height, image.width), np.uint8)
        labels[: len(labels) // 2] = 1
        target = (folder / path.relative_to(photographs)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(labels, PALETTE))
    return folder


def test_a_kind_of_its_own_is_seen_everywhere(
    edges, run_stage, run_tool, arguments, photographs, tmp_path
):
    truth = write_truth(photographs, tmp_path / "truth")
    given = [*arguments, f"dataset.masks={truth}"]
    finished = run_stage(*given, "stage=[tags,cams,masks,edges,evaluate]")
    assert finished.code == 0, finished.errors
    assert "outlines of masks" in finished.output, "the tables after a run"

    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    measured = metrics["latest"]["edges"]["all"]
    assert measured["images"] == 5 and 0 < measured["miou"] < 1
    (run,) = (run for run in metrics["runs"] if run["stage"] == "edges")
    assert run["about"]["masks"] == "crf" and run["read"].keys() == {"masks"}

    (board,) = collect_boards(read_runs([out / "metrics.json"])[0])
    columns = [name for name in board.header if name.startswith("mIoU")]
    assert columns == ["mIoU CAMs", "mIoU masks", "mIoU edges"], "in the order of the pipeline"
    (row,) = board.rows
    assert row[-1] == f"{100 * measured['miou']:.1f}"

    finished = run_stage(*given, "stage=report")
    assert finished.code == 0, finished.errors
    assert "| outlines of masks | all | 5 |" in (out / "tables.md").read_text()
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert "edges against the ground truth" in page.text and "outlines, IoU" in page.text
    assert "edge" in {figure.get("data-layer") for figure in page.find("figure")}
    assert page.find("option", value="edge"), "to lay over all photographs"

    status = run_stage("stage=status", f"output_dir={out}").output
    (line,) = (line for line in status.splitlines() if " edges " in line)
    assert "crf, clip_es, tagclip" in line, "the methods behind it"

    folder = out / "all" / "edges" / "latest"
    finished = run_tool("export.py", folder, "--format", "coco", "--output", tmp_path / "e.json")
    assert finished.code == 0, finished.errors
    assert len(json.loads((tmp_path / "e.json").read_text())["annotations"]) == 5
    finished = run_tool("export.py", folder, "--format", "clip_es", "--output", tmp_path / "x")
    assert finished.code == 2 and "holds edges, and --format clip_es is for cams" in finished.errors
    finished = run_tool("overlay.py", folder, "--images", photographs, "--output", tmp_path / "o")
    assert finished.code == 0 and (tmp_path / "o" / "edges" / "a.png").is_file()


def test_a_stage_has_the_name_of_its_kind():
    with pytest.raises(TypeError, match="Outlines is not a stage edges, as its kind says"):
        type("Outlines", (Edges,), {"name": "outlines"})
