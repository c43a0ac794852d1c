"""Data sets of VOC and Hugging Face: palette PNGs beside the photographs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.datasets.mask_images import Reading
from pipeline.datasets.settings import AnnotationSettings
from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.images import decode_image
from pipeline.files.label_images import IGNORE, read_labels
from tests.exchange.conftest import CLASSES
from tests.extras import library


def in_list(image_id):
    """A line of a list that begins with # is a comment."""
    return image_id.replace("#", "%23")


def test_images_of_one_name_are_refused(export, stage_folder, images, tmp_path):
    masks = stage_folder("masks", dict.fromkeys((" b", "%20b"), b"mask"), ".png")
    finished = export("voc", masks, tmp_path / "x", images)
    assert finished.code == 2 and "two images would have the same name" in finished.errors


def test_a_data_set_is_not_written_among_the_images(export, masks, images):
    finished = export("labelme", masks, images / "set", images)
    assert finished.code == 2 and "is in the folder of the images" in finished.errors


def test_voc_holds_every_label(export, noisy, tmp_path):
    folder, images, labels = noisy
    target = tmp_path / "set"
    finished = export("voc", folder, target, images)
    assert finished.code == 0 and finished.errors == ""
    listed = (target / "ImageSets/Segmentation/val.txt").read_text().splitlines()
    assert listed == sorted(map(in_list, labels))
    settings = AnnotationSettings(colours=str(target / "labelmap.txt"), palette="colour")
    reading = Reading.of(settings, "masks", CLASSES)
    assert len(reading.colours) == 5
    for image_id, mask in labels.items():
        path = target / "SegmentationClass" / f"{in_list(image_id)}.png"
        assert np.array_equal(read_labels(path), mask)
        assert np.array_equal(reading.read_png(path), mask)
        copied = target / "JPEGImages" / f"{in_list(image_id)}.png"
        assert copied.read_bytes() == (images / f"{image_id}.png").read_bytes()
    assert export("voc", folder, target, images).code == 0, "it may be run again"


def test_splits_of_voc_share_folders_but_no_image(export, masks, images, tmp_path):
    other = tmp_path / "set/ImageSets/Segmentation/train.txt"
    other.parent.mkdir(parents=True)
    other.write_text("f\ng\n")
    assert export("voc", masks, tmp_path / "set", images).code == 0
    other.write_text("f\nb/c d\n")
    finished = export("voc", masks, tmp_path / "set", images)
    assert finished.code == 2 and "train.txt has an image b/c d as well" in finished.errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a:b", "labelmap.txt cannot name class a:b: rename it without a colon"),
        ("#1", "cannot name class #1"),
        ("dog", "labelmap.txt has other classes: choose another output"),
    ],
)
def test_labelmap_names_the_same_classes_for_all_splits(
    name, message, export, masks, images, tmp_path
):
    assert export("voc", masks, tmp_path / "set", images).code == 0
    manifest = masks / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cat"', json.dumps(name)))
    finished = export("voc", masks, tmp_path / "set", images)
    assert finished.code == 2 and message in finished.errors


@pytest.mark.parametrize("options", [[], ["--grey"], ["--link"]])
def test_hugging_face_gets_labels_and_tags(options, export, noisy, tmp_path):
    folder, images, labels = noisy
    finished = export("hugging_face", folder, tmp_path / "set", images, *options)
    assert finished.code == 0 and finished.errors == ""
    root = tmp_path / "set/val"
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted(labels)
    for line in lines:
        mask = labels[line["id"]]
        assert np.array_equal(read_labels(root / line["mask_file_name"]), mask)
        image = root / line["file_name"]
        assert np.array_equal(decode_image(image), decode_image(images / f"{line['id']}.png"))
        assert image.is_symlink() == ("--link" in options)
        assert line["tags"] == [CLASSES[k - 1] for k in np.unique(mask) if k not in (0, IGNORE)]
    names = json.loads((root / "id2label.json").read_text())
    assert names == {"0": "background", "255": "ignore"} | {
        str(k): name for k, name in enumerate(CLASSES, 1)
    }


def test_photographs_that_cannot_stay_become_png(export, masks, images, tmp_path):
    from PIL import Image

    with Image.open(images / "a.jpg") as image:
        image.save(images / "a.bmp")
    (images / "a.jpg").unlink()
    finished = export("hugging_face", masks, tmp_path / "set", images)
    assert finished.code == 0 and "note: 1 images were written anew as .jpg or" in finished.errors
    written = tmp_path / "set/val/images"
    assert np.array_equal(decode_image(written / "a.png"), decode_image(images / "a.bmp"))
    assert (written / "e.jpg").read_bytes() == (images / "e.jpg").read_bytes()


@pytest.mark.extras
def test_datumaro_reads_voc(export, noisy, tmp_path):
    datumaro = library("datumaro")
    folder, images, labels = noisy
    assert export("voc", folder, tmp_path / "set", images).code == 0
    found = datumaro.Dataset.import_from(str(tmp_path / "set"), "voc_segmentation")
    names = [label.name for label in found.categories()[datumaro.AnnotationType.label]]
    assert names == ["background", *CLASSES, "ignore"]
    items = {item.id: item for item in found}
    assert set(items) == set(map(in_list, labels)) and {item.subset for item in found} == {"val"}
    values = {**{k: k for k in range(4)}, 4: IGNORE}
    for image_id, mask in labels.items():
        drawn = np.zeros(mask.shape, np.uint8)
        for annotation in items[in_list(image_id)].annotations:
            drawn[annotation.image.astype(bool)] = values[annotation.label]
        assert np.array_equal(drawn, mask)
        assert items[in_list(image_id)].media.size == mask.shape
    colours = found.categories()[datumaro.AnnotationType.mask].colormap
    assert [tuple(colours[k]) for k in range(4)] == voc_palette(4)


@pytest.mark.extras
def test_datasets_reads_an_image_folder(export, noisy, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = library("datasets")
    folder, images, labels = noisy
    assert export("hugging_face", folder, tmp_path / "set", images).code == 0
    files = {"val": f"{tmp_path}/set/val/**"}
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset("imagefolder", data_files=files, cache_dir=cache)
    (rows,) = found.values()
    assert [*found] == ["val"] and {row["id"] for row in rows} == set(labels)
    for row in rows:
        mask = labels[row["id"]]
        assert np.array_equal(np.asarray(row["mask"]), mask)
        assert np.array_equal(np.asarray(row["image"]), decode_image(images / f"{row['id']}.png"))
        assert row["tags"] == [CLASSES[k - 1] for k in np.unique(mask) if k not in (0, IGNORE)]
