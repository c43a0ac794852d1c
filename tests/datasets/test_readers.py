"""Folders and VOC, as people have them and as they should not be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import load_dataset
from pipeline.datasets.sample import choose_splits, read_mask
from pipeline.errors import UserError

VOC = {
    "name": "voc2012",
    "classes": [f"c{k}" for k in range(20)],
    "splits": {"train": "train", "val": "val"},
    "train_split": "train",
    "mask_folders": ["SegmentationClassAug", "SegmentationClass"],
}


@pytest.fixture
def voc(tmp_path):
    """A miniature of the devkit's layout."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for name in ("2007_1", "2007_2", "2007_3"):
        Image.new("RGB", (8, 6)).save(root / "JPEGImages" / f"{name}.jpg")
    labels = np.zeros((6, 8), np.uint8)
    labels[:3], labels[3:4] = 15, 255
    mask = Image.fromarray(labels, "L")
    mask.putpalette([0] * 768)
    mask.save(root / "SegmentationClass" / "2007_1.png")
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"2007_1\r\n2007_2\r\n\r\n")
    (root / "ImageSets/Segmentation/val.txt").write_text(
        "/JPEGImages/2007_3.jpg /SegmentationClassAug/2007_3.png\n"
    )
    return tmp_path / "VOCdevkit"


def test_voc_is_read_as_it_is(voc):
    dataset = load_dataset({**VOC, "root": str(voc)}, 1)
    first, second = dataset.splits["train"]
    assert first.id == "2007_1" and first.image.is_file()
    assert first.ground_truth_labels == (14,)
    assert set(np.unique(read_mask(first.mask))) == {0, 15, 255}
    assert second.mask is None and not second.has_ground_truth
    with pytest.raises(UserError, match="2007_2 has no ground truth"):
        _ = second.ground_truth_labels
    assert [s.id for s in dataset.splits["val"]] == ["2007_3"]


def test_a_wrong_layout_is_told_what_was_found(voc, tmp_path):
    (tmp_path / "other" / "stuff").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no JPEGImages \(found: stuff\)"):
        load_dataset({**VOC, "root": str(tmp_path / "other")}, 1)
    for path in (voc / "VOC2012/ImageSets/Segmentation").glob("*.txt"):
        path.rename(path.with_stem("x" + path.stem))
    with pytest.raises(
        UserError, match=r"none of train.txt, val.txt \(found: xtrain.txt, xval.txt"
    ):
        load_dataset({**VOC, "root": str(voc)}, 1)
    with pytest.raises(UserError, match="there is no data set imagenet"):
        load_dataset({"name": "imagenet"}, 1)


def test_a_folder_is_walked_without_following_loops(photographs):
    (photographs / "loop").symlink_to(photographs)
    (photographs / ".hidden.jpg").write_bytes(b"")
    (photographs / "notes.txt").write_text("no image")
    (photographs / "B.JPG").write_bytes((photographs / "a.jpg").read_bytes())
    dataset = load_dataset({"name": "folder", "root": str(photographs), "classes": ["x"]}, 1)
    ids = [s.id for s in dataset.splits["all"]]
    assert ids == ["B", "a", "b", "c", "d", "holiday 2026/e f"]


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        load_dataset({"name": "folder", "root": str(tmp_path), "classes": ["x"]}, 1)


def test_masks_have_to_hold_labels(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name, message in (
        ("colours", "is a RGB image"),
        ("broken", "cannot be decoded"),
        ("absent", "is missing"),
    ):
        with pytest.raises(UserError, match=message):
            read_mask(tmp_path / f"{name}.png")


def test_splits_are_chosen_by_name():
    assert choose_splits(None, ["train", "val"]) == ["train", "val"]
    assert choose_splits("val", ["train", "val"]) == ["val"]
    with pytest.raises(UserError, match="there is no split test: choose from train, val"):
        choose_splits(["test"], ["train", "val"])
