"""A data set for mmsegmentation, whose own class reads it through the config of the export."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.images import decode_image
from pipeline.segmenter.mmseg import import_mmseg, in_mmseg
from tests.exchange.conftest import CLASSES, SIZES


def load(target):
    """Returns id → image, H×W×3 RGB, and labels, as mmsegmentation's own class reads them."""
    import_mmseg()
    from mmseg.registry import DATASETS

    with in_mmseg():  # as mmsegmentation's own programs are
        dataset = DATASETS.build(Config.fromfile(target / "val.py").dataset_val)
    assert type(dataset).__name__ == "BaseSegDataset"
    assert dataset.metainfo["classes"] == ["background", *CLASSES]
    assert [tuple(c) for c in dataset.metainfo["palette"]] == voc_palette(4)
    found = {}
    for item in dataset:
        image_id = item["img_path"].split("/img_dir/val/")[1].rsplit(".", 1)[0]
        found[image_id] = (item["img"][..., ::-1], item["gt_seg_map"])
    return found


@pytest.mark.parametrize("options", [[], ["--grey"], ["--link"], ["--link", "--grey"]])
def test_its_own_class_reads_images_and_labels(options, export, masks, labels, images, tmp_path):
    finished = export("mmsegmentation", masks, tmp_path / "set", images, *options)
    assert finished.code == 0 and "3 masks written" in finished.output and finished.errors == ""
    moved = (tmp_path / "set").rename(tmp_path / "moved")
    found = load(moved)
    assert set(found) == set(SIZES)
    for image_id, (image, read) in found.items():
        assert np.array_equal(read, labels[image_id])
        assert image.shape[:2] == labels[image_id].shape
        copied = moved / "img_dir/val" / f"{image_id}.jpg"
        assert copied.is_symlink() == ("--link" in options)
        assert copied.read_bytes() == (images / f"{image_id}.jpg").read_bytes()
        with Image.open(moved / "ann_dir/val" / f"{image_id}.png") as mask:
            assert mask.mode == ("L" if "--grey" in options else "P")
    assert export("mmsegmentation", masks, moved, images, *options).code == 0, "it may be run again"


def test_a_users_config_can_use_it(export, masks, images, tmp_path):
    assert export("mmsegmentation", masks, tmp_path / "set", images).code == 0
    config = tmp_path / "mine.py"
    (tmp_path / "theirs.py").write_text(
        "train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]\n"
        "train_dataloader = dict(dataset=dict(type='PascalVOCDataset', ann_file='train.txt'))\n"
    )
    config.write_text(
        "_base_ = ['set/val.py', 'theirs.py']\n"
        "mine = {**_base_.dataset_val, 'pipeline': _base_.train_pipeline}\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, **mine))\n"
    )
    import_mmseg()
    from mmseg.registry import DATASETS

    with in_mmseg():
        dataset = DATASETS.build(Config.fromfile(config).train_dataloader.dataset)
    assert len(dataset) == len(SIZES) and dataset[0]["inputs"].shape[0] == 3


def test_several_endings_become_one_without_loss(export, masks, labels, images, tmp_path):
    with Image.open(images / "a.jpg") as image:
        image.save(images / "a.webp")
    (images / "a.jpg").unlink()
    finished = export("mmsegmentation", masks, tmp_path / "set", images)
    assert finished.code == 0 and "note: 3 images were written anew as .png" in finished.errors
    found = load(tmp_path / "set")
    for image_id, ending in (("a", "webp"), ("b/c d", "jpg"), ("e", "jpg")):
        assert np.array_equal(found[image_id][1], labels[image_id])
        assert np.array_equal(found[image_id][0], decode_image(images / f"{image_id}.{ending}"))


def test_jpeg_has_many_endings(export, masks, images, tmp_path):
    (images / "a.jpg").rename(images / "a.JPEG")
    finished = export("mmsegmentation", masks, tmp_path / "set", images)
    assert finished.code == 0 and finished.errors == ""
    copied = tmp_path / "set/img_dir/val/a.jpg"
    assert copied.read_bytes() == (images / "a.JPEG").read_bytes()


@pytest.mark.parametrize("applied", [True, False])
def test_an_image_that_exif_turns_is_seen_as_its_mask_is(
    applied, export, stage_folder, labels, images, tmp_path
):
    """mmsegmentation's reader always follows EXIF, even if the masks do not."""
    from pipeline.files.images import encode_png

    path = images / "a.jpg"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif, quality=95)
    mask = np.rot90(labels["a"], -1) if applied else labels["a"]
    files = {"a": encode_png(np.ascontiguousarray(mask), voc_palette(4))}
    folder = stage_folder("masks", files, ".png", exif=not applied)
    finished = export("mmsegmentation", folder, tmp_path / "set", images)
    assert finished.code == 0 and "note: 1 images were written anew as .jpg" in finished.errors
    image, read = load(tmp_path / "set")["a"]
    assert np.array_equal(read, mask) and image.shape[:2] == mask.shape
    expected = decode_image(path, apply_exif=applied).astype(int)
    assert np.abs(image - expected).mean() < 4  # it is JPEG still


def test_what_cannot_be_exported_is_named(export, masks, images, tmp_path):
    with Image.open(images / "a.jpg") as image:
        image.crop((0, 0, 20, 20)).save(images / "a.jpg")
    (images / "e.jpg").write_bytes(b"noise")
    finished = export("mmsegmentation", masks, tmp_path / "set", images)
    assert finished.code == 2 and "1 masks written" in finished.output
    assert "left out: a: its mask is 60×40, the image 20×20 pixels" in finished.errors
    assert "left out: e: " in finished.errors
    assert set(load(tmp_path / "set")) == {"b/c d"}


def test_a_mask_of_another_photograph_is_left_out(export, run_tool, masks, images, tmp_path):
    assert export("mmsegmentation", masks, tmp_path / "set", images).code == 0
    (images / "a.jpg").write_bytes((images / "b/c d.jpg").read_bytes())
    chosen = ["--format", "mmsegmentation", "--output", tmp_path / "again", "--images", images]
    finished = run_tool("export.py", masks, *chosen)
    assert finished.code == 2 and "2 masks written" in finished.output
    assert "left out: a: its photograph has changed" in finished.errors


def test_other_files_in_the_target_are_refused(export, masks, images, tmp_path):
    stranger = tmp_path / "set/ann_dir/val/stranger.png"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"")
    finished = export("mmsegmentation", masks, tmp_path / "set", images)
    assert finished.code == 2 and "stranger.png is not part of this export" in finished.errors
    assert not (tmp_path / "set/val.py").exists()
