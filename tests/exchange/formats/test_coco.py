"""COCO's JSON: pycocotools restores the masks from it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from pipeline.files.own_files import RECORD
from tests import REPOSITORY
from tests.exchange.conftest import CLASSES, SIZES


def export(run_tool, folder, target, *arguments):
    return run_tool("export.py", folder, "--format", "coco", "--output", target, *arguments)


KILLED = """
import os, pathlib, runpy, sys
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), 9)  # before the file gets its name
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.large
def test_the_next_run_removes_what_a_killed_one_left(run_tool, masks, tmp_path):
    target = tmp_path / "exported" / "annotations.json"
    tool = [REPOSITORY / "tools" / "export.py", masks, "--format", "coco", "--output", target]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, tool)])
    assert killed.returncode == -signal.SIGKILL and [*target.parent.glob(".partial-*")]
    assert export(run_tool, masks, target).code == 0
    assert {path.name for path in target.parent.iterdir()} == {target.name, RECORD}


@pytest.mark.parametrize("components", [False, True])
def test_pycocotools_gives_the_masks_back(
    components, export, masks, labels, images, tmp_path, capsys
):
    target = tmp_path / "annotations.json"
    finished = export("coco", masks, target, images, *["--components"] * components)
    assert finished.code == 0 and f"3 masks written to {target}" in finished.output
    ignored = sum(int((mask == IGNORE).sum()) for mask in labels.values())
    assert f"note: {ignored} pixels of label 255 are in no annotation" in finished.errors
    coco = COCO(str(target))
    assert [c["name"] for c in coco.loadCats([1, 2, 3])] == CLASSES
    by_name = {image["file_name"]: image for image in coco.loadImgs(coco.getImgIds())}
    assert set(by_name) == {f"{image_id}.jpg" for image_id in SIZES}
    parts = 0
    for image_id, mask in labels.items():
        image = by_name[f"{image_id}.jpg"]
        assert (image["height"], image["width"]) == mask.shape
        assert image["ignored_area"] == (mask == IGNORE).sum()
        rebuilt = np.zeros(mask.shape, np.uint8)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        for annotation in annotations:
            inside = coco.annToMask(annotation).astype(bool)
            assert not rebuilt[inside].any(), "regions do not overlap"
            rebuilt[inside] = annotation["category_id"]
            rows, columns = np.nonzero(inside)
            assert annotation["area"] == inside.sum() and annotation["iscrowd"] == 0
            assert annotation["bbox"] == [
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            ]
            assert not components or ndimage.label(inside, np.ones((3, 3)))[1] == 1
        assert np.array_equal(rebuilt, np.where(mask == IGNORE, 0, mask))
        parts += len(annotations)
    classes = sum(len(set(np.unique(mask)) - {0, IGNORE}) for mask in labels.values())
    assert parts > classes if components else parts == classes


def test_ids_that_are_numbers_stay_the_images_own(run_tool, stage_folder, tmp_path):
    mask = encode_png(np.full((9, 7), 2, np.uint8), voc_palette(4))
    folder = stage_folder("predictions", {"000000000139": mask, "000000000285": mask}, ".png")
    finished = export(run_tool, folder, tmp_path / "a.json")
    assert finished.code == 0 and "note: file names end in .jpg" in finished.errors
    content = json.loads((tmp_path / "a.json").read_text())
    assert [image["id"] for image in content["images"]] == [139, 285]
    assert content["images"][0]["file_name"] == "000000000139.jpg"
    assert {a["category_id"] for a in content["annotations"]} == {2}


def test_what_cannot_be_exported_is_named(export, run_tool, masks, images, tmp_path):
    (images / "a.jpg").unlink()
    (masks / "b/c d.png").write_bytes(b"noise")
    target = tmp_path / "a.json"
    finished = export("coco", masks, target, images)
    assert finished.code == 2 and "1 masks written" in finished.output
    assert f"left out: a: no image {images / 'a'}" in finished.errors
    assert "left out: b/c d: " in finished.errors and "not as they were written" in finished.errors
    assert "error: 2 of 3 images could not be exported" in finished.errors
    assert [i["file_name"] for i in json.loads(target.read_text())["images"]] == ["e.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "clip_es", "--output", "x"], "holds masks, and --format clip_es is for cams"),
        (["--format", "coco", "--output", "x"], "is not a JSON file: give one such as"),
        (["--format", "coco", "--output", "x.json", "--link"], "--link is for --format hug"),
        (["--format", "coco", "--output", "x.json", "--images", "/no"], "/no is not a folder"),
        (["--format", "mmsegmentation", "--output", "x"], "give their folder, --images"),
        (["--format", "yolo", "--output", "x"], "--format yolo needs images: give"),
        (["--format", "tfrecord", "--output", "x"], "invalid choice: 'tfrecord'"),
        (["--format", "labelme", "--output", "x", "--min-area", "x"], "invalid int"),
        (["--format", "yolo", "--output", "x", "--min-area", "-1"], "cannot be negative"),
        (["--format", "yolo", "--output", "x", "--tolerance", "nan"], "cannot be negative"),
        (["--format", "coco"], "required: --output; --help shows"),
    ],
)
def test_wrong_use_is_answered_with_one_sentence(
    arguments, message, run_tool, masks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    finished = run_tool("export.py", masks, *arguments)
    assert finished.code == 2 and message in finished.errors
    assert len(finished.errors.splitlines()) == 1
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.json").exists()


def test_folders_that_are_none(run_tool, tmp_path, stage_folder):
    for folder, message in (
        (tmp_path, "is not a finished folder of tags, cams, masks or predictions"),
        (stage_folder("masks", {}, ".png"), "holds no image: run stage=masks first"),
    ):
        finished = export(run_tool, folder, tmp_path / "a.json")
        assert finished.code == 2 and message in finished.errors


def test_help_has_examples(run_tool):
    finished = run_tool("export.py", "--help")
    assert finished.code == 0 and "--format mmsegmentation --images PHOTOS" in finished.output
