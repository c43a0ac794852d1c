"""Folders of photographs."""

from __future__ import annotations

import pytest
from PIL import Image

from pipeline.errors import UserError
from tests.datasets.miniatures import contents, load, write_labels
from tests.small_runs import draw_photograph


def test_a_folder_is_walked_without_following_loops(photographs, cache):
    (photographs / "loop").symlink_to(photographs)
    (photographs / ".hidden.jpg").write_bytes(b"")
    (photographs / ".git").mkdir()
    (photographs / ".git" / "x.jpg").write_bytes(b"")
    (photographs / "notes.txt").write_text("no image")
    (photographs / "B.JPG").write_bytes((photographs / "a.jpg").read_bytes())
    before = contents(photographs)
    dataset = load("folder", photographs, cache, classes=["x"])
    ids = [s.id for s in dataset.splits["all"]]
    assert ids == ["B", "a", "b", "c", "d", "holiday 2026/e f"]
    assert not any(s.has_ground_truth for s in dataset.splits["all"])
    assert contents(photographs) == before


def test_an_empty_folder_is_an_error(tmp_path, cache):
    with pytest.raises(UserError, match="holds no image"):
        load("folder", tmp_path, cache, classes=["x"])


def test_ids_hold_folders_dots_white_space_and_any_unicode(tmp_path, cache):
    names = ["été/Käse 東京.jpg", "a.b.c.jpg", "two  spaces.png", "100%.webp", "x/x/x.JPEG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    samples = load("folder", tmp_path, cache, classes=["x"]).splits["all"]
    wanted = {"été/Käse 東京", "a.b.c", "two  spaces", "100%", "x/x/x"}
    assert {s.id for s in samples} == wanted


def test_the_second_of_two_files_with_one_id_is_skipped(photographs, cache):
    Image.fromarray(draw_photograph(5, 50, 50)).save(photographs / "a.png")
    dataset = load("folder", photographs, cache, classes=["x"])
    assert [s.image.name for s in dataset.splits["all"] if s.id == "a"] == ["a.jpg"]
    [(name, reason)] = dataset.rejected["all"]
    assert name == "a.png" and "has the same name as a.jpg: rename one" in reason


def test_files_that_the_pipeline_wrote_are_skipped(photographs, cache):
    key = photographs / "out" / "all" / "tags" / "0123"
    key.mkdir(parents=True)
    (key / "entries.jsonl").touch()
    Image.new("RGB", (8, 8)).save(photographs / "out" / "examples.png")
    masks = photographs / "out" / "all" / "masks" / "4567"
    write_labels(masks / "a.png", draw_photograph(0, 8, 8)[:, :, 0])
    ids = [s.id for s in load("folder", photographs, cache, classes=["x"]).splits["all"]]
    assert ids == ["a", "b", "c", "d", "holiday 2026/e f"]

    (masks / "entries.jsonl").touch()
    within = load("folder", photographs / "out", cache, classes=["x"]).splits["all"]
    assert [s.id for s in within] == ["examples"]
