"""The scenes are frozen: the committed demo CLIP was trained on the demo's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import load_dataset
from pipeline.datasets.demo import load_demo
from pipeline.datasets.scenes import (
    OUTLINES,
    PATTERNS,
    TEXTURES,
    load_world,
    render_scene,
)
from pipeline.datasets.settings import RENDERED, DatasetSettings, splits_of_run
from pipeline.engine.sample import Images
from pipeline.stages.config import compose, read_config
from tools.train_demo_clip import write_caption

DEMO = load_world("demo")


@pytest.mark.parametrize("name", RENDERED)
def test_a_world_names_what_the_code_draws(name: str):
    world = load_world(name)
    assert set(world["classes"]) == set(OUTLINES) == set(PATTERNS)
    assert set(world["grounds"]) == set(TEXTURES)


@pytest.mark.parametrize(
    ("name", "stream", "index", "of_mask", "of_image"),
    [
        ("demo", "train", 0, 1489417399, 4290078458),
        ("demo", "val", 7, 4193089147, 2078019345),
        ("demo", "captions", 11999, 3093231438, 211094445),
        ("demo_crowded", "train", 399, 3368253096, 1742634664),
        ("demo_crowded", "choose", 0, 1599482492, 550320904),
        ("demo_crowded", "report", 7, 4157317584, 829651849),
    ],
)
def test_scenes_are_the_frozen_ones(name, stream, index, of_mask, of_image):
    scene = render_scene(load_world(name), stream, index)
    assert zlib.crc32(scene.mask.tobytes()) == of_mask
    assert zlib.crc32(scene.image.tobytes()) == of_image


def test_a_scene_depends_on_its_index_alone():
    render_scene(DEMO, "val", 3)
    again, other = render_scene(DEMO, "val", 4), render_scene(DEMO, "train", 4)
    np.testing.assert_array_equal(again.image, render_scene(DEMO, "val", 4).image)
    assert again.image.shape != other.image.shape or (again.image != other.image).any()


def test_scenes_look_like_voc():
    masks = [render_scene(DEMO, "train", index).mask for index in range(60)]
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
    monkeypatch.setitem(DEMO, "splits", {"train": 3, "val": 2})
    classes = list(DEMO["classes"])
    settings = DatasetSettings(name="demo", root=str(tmp_path / "scenes"), classes=classes)
    dataset = load_demo(settings)
    assert not dataset.notes
    assert {split: len(s) for split, s in dataset.splits.items()} == {"train": 3, "val": 2}
    sample = dataset.splits["val"][1]
    scene = render_scene(DEMO, "val", 1)
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


def test_objects_that_no_class_has_the_name_of_are_named(tmp_path):
    classes = ["circle", *[*DEMO["classes"]][1:-1], "sand"]
    settings = {"name": "demo", "root": str(tmp_path), "classes": classes}
    (note,) = load_demo(DatasetSettings(**settings)).notes
    assert "count as background" in note and note.endswith(": disc, hexagon")


def test_another_world_changes_the_scenes_and_not_the_classes(tmp_path, monkeypatch):
    world = load_world("demo_crowded")
    reports = {"report": 500, "report_2": 500, "report_3": 500}
    assert world["splits"] == {"train": 400, "choose": 200, **reports}
    assert world["classes"] == DEMO["classes"] and world["seed"] != DEMO["seed"]
    monkeypatch.setitem(world, "splits", {"train": 1, "choose": 1, "report": 1})
    overrides = [f"dataset.root={tmp_path / 'scenes'}", f"output_dir={tmp_path}"]
    settings = read_config(compose(["dataset=demo_crowded", *overrides])).dataset
    dataset = load_dataset(settings)
    assert splits_of_run(settings, dataset.splits) == ["choose", "report"]
    assert dataset.train_split == "train"
    with Image.open(dataset.splits["report"][0].image) as image:
        drawn = render_scene(world, "report", 0).image
        np.testing.assert_array_equal(np.asarray(image), drawn)


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
