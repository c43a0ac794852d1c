"""The demo's scenes are frozen: the committed demo CLIP was trained on them."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.demo import load_demo
from pipeline.datasets.scenes import (
    GROUNDS,
    OUTLINES,
    PATTERNS,
    load_recipe,
    render_scene,
)
from pipeline.datasets.settings import DatasetSettings
from pipeline.engine.sample import Images
from tools.train_demo_clip import write_caption


def test_the_recipe_names_what_the_code_draws():
    recipe = load_recipe()
    assert set(recipe["classes"]) == set(OUTLINES) == set(PATTERNS)
    assert set(recipe["grounds"]) == set(GROUNDS)


@pytest.mark.parametrize(
    ("stream", "index", "checksum"),
    [
        ("train", 0, 1489417399),
        ("val", 7, 4193089147),
        ("captions", 11999, 3093231438),
    ],
)
def test_scenes_are_the_frozen_ones(stream: str, index: int, checksum: int):
    mask = render_scene(stream, index).mask
    assert zlib.crc32(mask.tobytes()) == checksum


def test_a_scene_depends_on_its_index_alone():
    render_scene("val", 3)
    again, other = render_scene("val", 4), render_scene("train", 4)
    np.testing.assert_array_equal(again.image, render_scene("val", 4).image)
    assert again.image.shape != other.image.shape or (again.image != other.image).any()


def test_scenes_look_like_voc():
    masks = [render_scene("train", index).mask for index in range(60)]
    counts = [len(np.unique(mask)) - 1 for mask in masks]
    assert min(counts) >= 1
    assert 1.2 < np.mean(counts) < 1.8
    assert 0.68 < np.mean([(mask == 0).mean() for mask in masks]) < 0.85


def test_captions_name_the_main_object_always_and_the_rest_sometimes():
    rng = np.random.default_rng(0)
    written = [write_caption(["star", "ring"], "sky", ["a {}."], rng) for _ in range(500)]
    assert all("star" in names for _, names in written)
    assert 0.28 < np.mean(["ring" in names for _, names in written]) < 0.42
    assert 0.63 < np.mean(["sky" in names for _, names in written]) < 0.77
    assert ("a star and a ring in the sky.", frozenset({"star", "ring", "sky"})) in written
    assert write_caption([], "sand", ["a {}."], rng)[0] == "a sand."


def test_the_demo_is_rendered_on_first_use_and_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(load_recipe(), "splits", {"train": 3, "val": 2})
    classes = list(load_recipe()["classes"])
    settings = DatasetSettings(
        name="demo", root=str(tmp_path / "scenes"), cache=str(tmp_path), classes=classes
    )
    dataset = load_demo(settings)
    assert {split: len(s) for split, s in dataset.splits.items()} == {"train": 3, "val": 2}
    sample = dataset.splits["val"][1]
    scene = render_scene("val", 1)
    with Image.open(sample.image) as image:
        np.testing.assert_array_equal(np.asarray(image), scene.image)
    np.testing.assert_array_equal(sample.mask.read(), scene.mask)
    assert sample.labels == tuple(int(v) - 1 for v in np.unique(scene.mask) if v)
    before = sample.image.stat().st_mtime_ns
    load_demo(settings)
    assert sample.image.stat().st_mtime_ns == before
    settings.limit = 1
    limited = Images(load_demo(settings), 1)
    assert [s.id for s in limited.of("val")] == ["00000"]
    assert limited.known_ids("val") == {"00000", "00001"}, "the others are not removed"


@pytest.mark.parametrize("name", ["a.jpg", "holiday/a.jpg", "v1/a.jpg", ""])
@pytest.mark.parametrize("dry_run", [False, True])
def test_scenes_are_never_rendered_among_photographs(tmp_path, run_stage, name, dry_run):
    root = tmp_path / "PHOTOS"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"theirs")
    finished = run_stage(f"dataset.root={root}", f"dry_run={dry_run}", f"output_dir={tmp_path}/out")
    assert finished.code == 2 and "did you mean dataset=folder?" in finished.errors
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
