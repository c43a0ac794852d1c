"""Error messages for unexpected layouts; data sets are never written to."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf.errors import ValidationError

from pipeline.datasets import find_reader
from pipeline.datasets.layout import how_to_get
from pipeline.datasets.settings import DatasetSettings, splits_of_run
from pipeline.errors import UserError
from tests import REPOSITORY
from tests.datasets.miniatures import contents, copy_of, load, settings_of
from tests.typed import to_settings

PRESETS = sorted(path.stem for path in (REPOSITORY / "configs" / "dataset").glob("*.yaml"))
MINIATURES = {
    "voc2007": "voc2007",
    "voc2012": "voc2012_augmented",
    "coco2017": "coco",
    "cocostuff": "cocostuff",
    "ade20k": "ade20k",
}


def told(error: pytest.ExceptionInfo, section: str) -> str:
    """Returns the message, after checking that it is one sentence that points to a section."""
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".")
    number, name = re.search(r"docs/data-sets\.md, line (\d+) \((.+?)\)", text).groups()
    assert name == section
    lines = (REPOSITORY / "docs" / "data-sets.md").read_text(encoding="utf-8").splitlines()
    assert lines[int(number) - 1] == f"## {section}"
    return text


@pytest.mark.parametrize("preset", PRESETS)
def test_every_guide_is_a_section(preset, tmp_path):
    guide = settings_of(preset, tmp_path).get("guide")
    assert (guide is None) == (preset in ("demo", "demo_crowded", "folder"))
    assert guide is None or f"({guide}), tells how" in how_to_get(guide)


@pytest.mark.parametrize(
    ("name", "section", "wanted"),
    [
        ("voc2012", "VOC 2012", "JPEGImages"),
        (
            "coco2017",
            "COCO 2014 and 2017",
            "annotations/instances_train2017.json or annotations/instances_val2017.json",
        ),
        ("cocostuff", "COCO-Stuff", "stuffthingmaps/train2017 or stuffthingmaps/val2017"),
        ("ade20k", "ADE20K", "annotations"),
    ],
)
def test_another_folder_is_described(tmp_path, name, section, wanted):
    root = tmp_path / "other"
    (root / "stuff").mkdir(parents=True)
    (root / "a.txt").touch()
    with pytest.raises(UserError) as error:
        load(name, root)
    assert told(error, section).startswith(f"{root} holds no {wanted} (found: a.txt, stuff):")
    with pytest.raises(UserError) as error:
        load(name, tmp_path / "nowhere")
    assert told(error, section).startswith(f"dataset.root={tmp_path / 'nowhere'} is not a folder")
    with pytest.raises(ValidationError, match="full_key: root"):
        to_settings(find_reader(name)[1], {**settings_of(name, root), "root": None})


def test_an_empty_folder_holds_nothing_and_a_full_one_is_not_listed_whole(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no JPEGImages \(found: nothing\)"):
        load("voc2012", tmp_path / "empty")
    for number in range(20):
        (tmp_path / "full" / f"{number:02d}").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\(found: 00, 01, 02, .*07, …\)"):
        load("voc2012", tmp_path / "full")


def test_missing_lists_are_named_with_what_is_there(voc2012, tmp_path):
    root = copy_of(voc2012, tmp_path)
    lists = root / "ImageSets" / "Segmentation"
    with pytest.raises(UserError) as error:
        load("voc2012", root, split="train_aug")
    text = told(error, "VOC 2012")
    assert text.startswith(f"{lists} holds no train_aug.txt (found: train.txt, val.txt):")
    for path in lists.glob("*.txt"):
        path.rename(path.with_stem("x" + path.stem))
    with pytest.raises(UserError, match=r"\(found: xtrain.txt, xval.txt\)"):
        load("voc2012", root)
    with pytest.raises(UserError) as error:
        load("voc2012", root, image_set="Layout")
    text = told(error, "VOC 2012")
    assert f"{root / 'ImageSets'} holds no Layout/train.txt" in text
    assert "(found: Main, Segmentation)" in text


def test_a_missing_list_for_train_aug_is_named(voc2012, sbd, tmp_path):
    root, boundaries = copy_of(voc2012, tmp_path), copy_of(sbd, tmp_path)
    (boundaries / "dataset" / "val.txt").unlink()
    splits = load("voc2012", root, sbd_root=str(boundaries)).splits
    with pytest.raises(UserError) as error:
        _ = splits["train_aug"]
    assert "dataset holds no val.txt (found: cls, img, train.txt)" in told(error, "VOC 2012")
    with pytest.raises(UserError) as error:
        load("voc2012", root, sbd_root=str(root))
    assert f"{root} holds no cls (found: Annotations, ImageSets" in told(error, "VOC 2012")
    with pytest.raises(UserError, match="dataset.sbd_root=/no/such is not"):
        load("voc2012", root, sbd_root="/no/such")


@pytest.mark.parametrize(
    ("name", "fixture", "wanted"),
    [
        ("coco2017", "coco", "instances_train2017.json"),
        ("cocostuff", "cocostuff", "stuffthingmaps/train2017"),
    ],
)
def test_a_split_that_is_asked_for_has_to_be_there(request, name, fixture, wanted):
    root = request.getfixturevalue(fixture)
    assert list(load(name, root).splits) == ["val"]
    for split in ("train", ["train", "val"]):
        with pytest.raises(UserError) as error:
            load(name, root, split=split)
        assert f"holds no {wanted} (found: " in told(error, settings_of(name, root)["guide"])


def test_missing_images_of_coco_are_named(coco, tmp_path):
    root = copy_of(coco, tmp_path)
    (root / "val2017").rename(root / "val")
    with pytest.raises(UserError) as error:
        _ = load("coco2017", root).splits["val"]
    text = told(error, "COCO 2014 and 2017")
    places = "val2017 or images/val2017 or JPEGImages/val2017"
    assert text.startswith(f"{root} holds no {places} (found: annotations, val):")


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="imagenet: choose from demo, demo_cr"):
        find_reader("imagenet")
    with pytest.raises(UserError, match="voc12: did you mean voc2012"):
        find_reader("voc12")


def test_splits_are_chosen_by_name():
    def chosen(split, **changes):
        settings = DatasetSettings(name="x", root="x", classes=["x"], split=split)
        return splits_of_run(replace(settings, **changes), ["train", "val"])

    assert chosen(None) == ["train", "val"]
    assert chosen(None, default_splits=["val", "test"]) == ["val"]
    assert chosen("val") == ["val"]
    with pytest.raises(UserError, match="no split test: choose from train, v"):
        chosen(["test"])
    with pytest.raises(UserError, match="there is no split 5"):
        chosen(5)


@pytest.mark.parametrize("name", MINIATURES)
def test_nothing_is_written_beside_a_data_set(request, sbd, name):
    root: Path = request.getfixturevalue(MINIATURES[name])
    before = contents(root), contents(sbd)
    changes = {"sbd_root": str(sbd)} if name == "voc2012" else {}
    dataset = load(name, root, **changes)
    for split in dataset.splits:
        for sample in dataset.splits[split]:
            assert sample.has_ground_truth
            _ = sample.ground_truth_labels
            if sample.mask is not None:
                assert sample.mask.read().shape
    assert (contents(root), contents(sbd)) == before
