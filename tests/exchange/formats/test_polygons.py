"""Data sets of labelme and YOLO: their own readers draw the masks again, to the pixel."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.measure import label as label_components

from pipeline.exchange.formats.regions import Outlines, draw_outlines
from pipeline.files.label_images import IGNORE
from tests.exchange.conftest import CLASSES
from tests.exchange.formats.conftest import noisy_labels, without_ignored
from tests.extras import library


def read_labelme(target, image_id, size):
    """Returns the labels, H×W uint8, that labelme's file of an image draws."""
    path = target / "val" / f"{image_id}.json"
    content = json.loads(path.read_text())
    assert (content["imageHeight"], content["imageWidth"]) == size
    with Image.open(path.with_name(content["imagePath"])) as image:
        assert image.size == size[::-1]
    shapes = content["shapes"]
    outlines = [(CLASSES.index(s["label"]), np.array(s["points"])) for s in shapes]
    assert {shape["shape_type"] for shape in shapes} <= {"polygon"}
    return draw_outlines(outlines, size)


def read_yolo(target, image_id, size, rounded):
    """Returns the labels, H×W uint8, that a file of YOLO draws, with its points ``rounded``."""
    outlines = []
    name = image_id.replace("%", "%25").replace("/", "%2F")
    for line in (target / "labels/val" / f"{name}.txt").read_text().splitlines():
        k, *values = line.split()
        points = np.array(values, float).reshape(-1, 2) * size[::-1]
        assert len(points) >= 3 and points.min() >= 0 and (points < size[::-1]).all()
        outlines.append((int(k), rounded(points)))
    return draw_outlines(outlines, size)


def test_labelme_gets_every_pixel(export, noisy, tmp_path):
    folder, images, labels = noisy
    finished = export("labelme", folder, tmp_path / "set", images)
    assert finished.code == 0 and "5 masks written" in finished.output
    assert "an IoU with their masks of 1.0000 in the median image and 1.0000 in" in finished.errors
    assert "note: 0 components" not in finished.errors
    ignored = sum(int((mask == IGNORE).sum()) for mask in labels.values())
    assert f"note: {ignored} pixels of label 255 have no polygon" in finished.errors
    for image_id, mask in labels.items():
        drawn = read_labelme(tmp_path / "set", image_id, mask.shape)
        assert np.array_equal(drawn, without_ignored(mask))
    assert export("labelme", folder, tmp_path / "set", images).code == 0, "it may be run again"


@pytest.mark.parametrize("rounded", [np.round, np.trunc])
def test_yolo_gets_every_pixel_however_a_reader_rounds(rounded, export, noisy, tmp_path):
    folder, images, labels = noisy
    finished = export("yolo", folder, tmp_path / "set", images)
    assert finished.code == 0 and "1.0000 in the worst" in finished.errors
    for image_id, mask in labels.items():
        drawn = read_yolo(tmp_path / "set", image_id, mask.shape, rounded)
        assert np.array_equal(drawn, without_ignored(mask))
    about = yaml.safe_load((tmp_path / "set/data.yaml").read_text())
    assert about == {"val": "images/val", "names": CLASSES}
    names = {path.name for path in (tmp_path / "set/images/val").iterdir()}
    assert names == {"a.png", "b%2Fc d.png", "#ü%2F日本 1.png", "%252F.png", "e.png"}


def test_splits_share_a_folder_if_their_classes_are_equal(export, masks, images, tmp_path):
    (tmp_path / "set/images/train").mkdir(parents=True)
    assert export("yolo", masks, tmp_path / "set", images).code == 0
    about = yaml.safe_load((tmp_path / "set/data.yaml").read_text())
    assert about == {"train": "images/train", "val": "images/val", "names": CLASSES}
    manifest = masks / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"person"', '"pupil"'))
    finished = export("yolo", masks, tmp_path / "set", images)
    assert finished.code == 2 and "data.yaml has other classes: choose" in finished.errors


@pytest.mark.parametrize("seed", range(40))
def test_outlines_draw_their_mask(seed):
    rng = np.random.default_rng(seed)
    labels = noisy_labels(seed, *rng.integers(1, 50, 2))
    drawn = draw_outlines(Outlines().trace(labels), labels.shape)
    assert np.array_equal(drawn, without_ignored(labels))


def test_holes_in_holes_are_joined_by_a_line():
    labels = np.zeros((30, 30), np.uint8)
    for margin in range(0, 15, 3):
        labels[margin : 30 - margin, margin : 30 - margin] = 1 + margin % 2
    labels[13, 13] = 0
    outlines = Outlines()
    assert len(outlines.trace(labels)) == 5 and outlines._holes == 5
    (sentence,) = outlines.loss()
    assert "1.0000 in the worst; 5 holes" in sentence


def test_what_is_small_is_dropped_and_counted(export, noisy, tmp_path):
    folder, images, labels = noisy
    finished = export("labelme", folder, tmp_path / "set", images, "--min-area", "4")
    assert finished.code == 0
    known = without_ignored(labels["a"])
    drawn = read_labelme(tmp_path / "set", "a", known.shape)
    assert ((drawn == known) | (drawn == 0)).all() and (drawn != known).any()
    small = sum(
        int(np.sum(np.bincount(parts.ravel())[1:] < 4))
        for mask in labels.values()
        for parts in [label_components(without_ignored(mask), connectivity=2)]
    )
    assert f"note: {small} components below 4 pixels have no polygon" in finished.errors
    worst = min(
        iou(without_ignored(mask), read_labelme(tmp_path / "set", i, mask.shape))
        for i, mask in labels.items()
    )
    assert f"and {worst:.4f} in the worst" in finished.errors


def iou(mask, drawn):
    either = (mask > 0) | (drawn > 0)
    return (mask == drawn)[either].mean() if either.any() else 1


def test_tolerance_spares_points():
    y, x = np.mgrid[:80, :80]
    labels = ((y - 40) ** 2 + (x - 40) ** 2 < 30**2).astype(np.uint8)
    exact, fewer = Outlines(), Outlines(tolerance=1)
    (_, many), (_, few) = exact.trace(labels)[0], fewer.trace(labels)[0]
    assert len(few) < len(many) / 3
    assert 0.95 < fewer._ious[0] < exact._ious[0] == 1


@pytest.mark.extras
def test_labelmes_own_loader_reads_it(export, noisy, tmp_path):
    loader, shape = library("labelme._label_file"), library("labelme.utils.shape")
    folder, images, labels = noisy
    assert export("labelme", folder, tmp_path / "set", images).code == 0
    names = {"_background_": 0} | {name: k + 1 for k, name in enumerate(CLASSES)}
    for image_id, mask in labels.items():
        read = loader.LabelFile(str(tmp_path / "set/val" / f"{image_id}.json"))
        with Image.open(io.BytesIO(read.image_data)) as image:
            assert image.size[::-1] == mask.shape
        drawn, _ = shape.shapes_to_label(mask.shape, read.shapes, names)
        assert np.array_equal(drawn, without_ignored(mask))


@pytest.mark.extras
def test_supervision_reads_it(export, noisy, tmp_path):
    supervision = library("supervision")
    folder, images, labels = noisy
    assert export("yolo", folder, tmp_path / "set", images).code == 0
    found = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "set/images/val"),
        str(tmp_path / "set/labels/val"),
        str(tmp_path / "set/data.yaml"),
        force_masks=True,
    )
    assert found.classes == CLASSES and len(found) == len(labels)
    by_name = {path.rpartition("/")[2]: (image, boxes) for path, image, boxes in found}
    for image_id, mask in labels.items():
        image, regions = by_name[image_id.replace("%", "%25").replace("/", "%2F") + ".png"]
        assert image.shape[:2] == mask.shape
        drawn = np.zeros(mask.shape, int)
        for inside, k in zip(regions.mask if len(regions) else (), regions.class_id):
            drawn[inside] = k + 1
        assert np.array_equal(drawn, without_ignored(mask))
