"""PASCAL VOC 2007 and 2012, and the Semantic Boundaries Dataset."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from tests.datasets.miniatures import (
    SBD_LISTS,
    TRAIN_AUG,
    VOC2007_LISTS,
    VOC2012_LABELS,
    VOC2012_LISTS,
    build_voc2012,
    copy_of,
    load,
    striped,
    write_labels,
    write_list,
)


def names_of(dataset, sample):
    return [dataset.vocabulary.classes[k] for k in sample.ground_truth_labels]


def test_voc2007_has_four_splits_of_images_for_tagging(voc2007):
    dataset = load("voc2007", voc2007)
    assert {name: [s.id for s in dataset.splits[name]] for name in dataset.splits} == VOC2007_LISTS
    for sample in dataset.splits["test"]:
        assert sample.image == voc2007 / "VOC2007" / "JPEGImages" / f"{sample.id}.jpg"
        assert sample.image.is_file()


def test_voc2007_labels_are_the_objects_whether_difficult_or_not(voc2007):
    dataset = load("voc2007", voc2007)
    named = [names_of(dataset, s) for s in dataset.splits["test"]]
    assert named == [["dog", "person"], ["train"], ["chair", "sofa"]]
    assert names_of(dataset, dataset.splits["val"][0]) == ["bus", "car"]


def test_voc2007_labels_can_leave_difficult_objects_out(voc2007):
    dataset = load("voc2007", voc2007, difficult=False)
    named = [names_of(dataset, s) for s in dataset.splits["test"]]
    # One of the persons is not difficult, and counts.
    assert named == [["dog", "person"], ["train"], ["chair"]]
    assert names_of(dataset, dataset.splits["val"][0]) == ["car"]


def test_voc2007_has_masks_of_few_images(voc2007):
    test = load("voc2007", voc2007).splits["test"]
    assert [s.mask is not None for s in test] == [False, False, True]
    assert all(s.has_ground_truth for s in test)


def test_the_devkits_folder_may_lie_below_the_root(voc2007):
    for root in (voc2007, voc2007.parent, voc2007 / "VOC2007"):
        assert [s.id for s in load("voc2007", root).splits["test"]] == VOC2007_LISTS["test"]


def test_lists_of_a_class_hold_an_id_and_a_number(voc2007):
    dataset = load("voc2007", voc2007, splits={"dogs": "dog_test"})
    assert [s.id for s in dataset.splits["dogs"]] == ["000001", "000002"]


def test_voc2012_labels_are_those_in_the_masks(voc2012):
    dataset = load("voc2012", voc2012)
    assert sorted(dataset.splits) == ["train", "val"] and dataset.train_split == "train"
    for split, ids in VOC2012_LISTS.items():
        assert [s.id for s in dataset.splits[split]] == ids
        for sample in dataset.splits[split]:
            labels = VOC2012_LABELS[sample.id]
            assert sample.ground_truth_labels == tuple(k - 1 for k in sorted(labels))
            index = list(VOC2012_LABELS).index(sample.id)
            np.testing.assert_array_equal(
                sample.mask.read(), striped(index, [0, *labels], border=255)
            )


def test_voc2012_labels_come_from_the_annotations_where_they_are_wanted(voc2012):
    dataset = load("voc2012", voc2012, label_source="xml")
    named = {s.id: names_of(dataset, s) for s in dataset.splits["train"]}
    assert named == {
        "2007_000032": ["aeroplane", "bottle", "person"],
        "2007_000039": ["bottle", "tvmonitor"],
    }


def test_classes_may_have_other_names_than_in_the_annotations(voc2012):
    classes = load("voc2012", voc2012).vocabulary.classes
    mine = [f"my {name}" for name in classes]
    changes = {"label_source": "xml", "classes": mine, "cam_names": None}
    dataset = load("voc2012", voc2012, **changes, annotated_as=list(classes))
    assert names_of(dataset, dataset.splits["train"][1]) == ["my bottle", "my tvmonitor"]
    with pytest.raises(UserError, match="000039.xml .*tvmonitor.*annotated_as"):
        _ = load("voc2012", voc2012, **changes).splits["train"][1].ground_truth_labels
    with pytest.raises(UserError, match="dataset.annotated_as holds 2"):
        load("voc2012", voc2012, **changes, annotated_as=["cat", "dog"])


def test_a_missing_annotation_is_not_replaced_by_the_mask(voc2012, tmp_path):
    root = copy_of(voc2012, tmp_path)
    (root / "Annotations" / "2007_000032.xml").unlink()
    sample = load("voc2012", root, label_source="xml").splits["train"][0]
    with pytest.raises(UserError, match=r"000032.xml is .*data-sets.md, line \d+"):
        _ = sample.ground_truth_labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object><difficult>0</difficult></object></annotation>", "names nothing"),
        ("<annotation><object><name>zebra</name></object></annotation>", "names zebra, which"),
    ],
)
def test_damaged_annotations_are_named_and_empty_ones_read(voc2012, tmp_path, content, message):
    root = copy_of(voc2012, tmp_path)
    path = root / "Annotations" / "2007_000032.xml"
    path.write_text(content)
    sample = load("voc2012", root, label_source="xml").splits["train"][0]
    with pytest.raises(UserError, match=rf"2007_000032.xml {message}"):
        _ = sample.ground_truth_labels
    path.write_text("<annotation/>")
    assert sample.has_ground_truth and sample.ground_truth_labels == ()


def test_test_images_have_no_ground_truth(voc2012, tmp_path):
    root = copy_of(voc2012, tmp_path)
    write_list(root / "ImageSets" / "Segmentation" / "test.txt", ["2008_000006"])
    for source in ("masks", "xml"):
        dataset = load("voc2012", root, label_source=source, split="test")
        [sample] = dataset.splits["test"]
        assert sample.mask is None and not sample.has_ground_truth
        with pytest.raises(UserError, match="2008_000006 has no .*choose"):
            _ = sample.ground_truth_labels


def test_the_lists_for_classification_can_be_taken(voc2012):
    dataset = load("voc2012", voc2012, image_set="Main")
    assert [s.id for s in dataset.splits["train"]] == ["2008_000008"]


def test_train_aug_comes_from_the_folder_that_others_distribute(voc2012_augmented):
    dataset = load("voc2012", voc2012_augmented, split="train_aug")
    samples = dataset.splits["train_aug"]
    assert [s.id for s in samples] == TRAIN_AUG
    assert [s.ground_truth_labels for s in samples] == [(0, 14), (19,), (7,), (7,)]
    assert all(set(np.unique(s.mask.read())) >= {0, 255} for s in samples)


@pytest.mark.parametrize("image_set", ["Segmentation", "Main"])
def test_train_aug_is_derived_from_sbd(voc2012, sbd, image_set):
    changes = {"sbd_root": str(sbd), "image_set": image_set, "split": "train_aug"}
    samples = load("voc2012", voc2012, **changes).splits["train_aug"]
    assert [s.id for s in samples] == TRAIN_AUG
    assert not {s.id for s in samples} & set(VOC2012_LISTS["val"])
    # VOC's own masks have borders, those of SBD have none.
    values = [np.unique(s.mask.read()).tolist() for s in samples]
    assert values == [[0, 1, 15, 255], [0, 20, 255], [0, 8], [0, 8]]
    for index, sample in enumerate(samples[2:], 5):
        np.testing.assert_array_equal(sample.mask.read(), striped(index, [0, 8]))


def test_sbd_may_lie_above_or_below_its_folder(voc2012, sbd):
    for root in (sbd, sbd.parent, sbd / "dataset"):
        dataset = load("voc2012", voc2012, sbd_root=str(root))
        assert len(dataset.splits["train_aug"]) == len(TRAIN_AUG)


def test_validation_masks_are_vocs_own_though_sbd_has_some(voc2012, sbd):
    samples = load("voc2012", voc2012, sbd_root=str(sbd)).splits["val"]
    assert set(SBD_LISTS["train"] + SBD_LISTS["val"]) & {s.id for s in samples}
    assert all(255 in s.mask.read() for s in samples)


def test_a_damaged_file_of_sbd_is_named(voc2012, sbd, tmp_path):
    root = copy_of(sbd, tmp_path)
    (root / "dataset" / "cls" / "2008_000008.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    samples = load("voc2012", voc2012, sbd_root=str(root)).splits["train_aug"]
    with pytest.raises(UserError, match="2008_000008.mat cannot be read"):
        samples[2].mask.read()


def test_lists_are_read_in_the_forms_in_which_they_go_round(tmp_path):
    root = build_voc2012(tmp_path)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_bytes(b"\xef\xbb\xbf2007_000032\r\n2007_000039\r\n\r\n")
    pairs = "/JPEGImages/2007_000033.jpg /SegmentationClass/2007_000033.png\n\n  2007_000042  \n"
    (lists / "val.txt").write_text(pairs)
    splits = load("voc2012", root).splits
    assert [s.id for s in splits["train"]] == VOC2012_LISTS["train"]
    assert [s.id for s in splits["val"]] == VOC2012_LISTS["val"][:2]


def test_masks_with_more_labels_than_classes_are_refused(voc2012):
    dataset = load("voc2012", voc2012, classes=["cat", "dog"], cam_names=None)
    with pytest.raises(UserError, match="032.png holds label 15, .* 2 names"):
        _ = dataset.splits["train"][0].ground_truth_labels


def test_an_unknown_source_of_labels_is_refused(voc2012):
    with pytest.raises(UserError, match="boxes is .*choose from masks, xml"):
        load("voc2012", voc2012, label_source="boxes")


def test_the_real_images_have_the_labels_that_their_list_says(voc_sample):
    dataset = load("voc2012", voc_sample, split="train_aug")
    lines = (voc_sample / "labels.txt").read_text().splitlines()
    listed = {line.split()[0]: {int(k) for k in line.split()[1:]} for line in lines}
    samples = dataset.splits["train_aug"]
    assert {s.id: set(s.ground_truth_labels) for s in samples} == listed
    assert all(s.image.is_file() and 255 in s.mask.read() for s in samples)


def test_the_first_folder_of_masks_wins(voc2012_augmented, tmp_path):
    root = copy_of(voc2012_augmented, tmp_path)
    write_labels(root / "SegmentationClassAug" / "2007_000032.png", striped(0, [0, 3]))
    for folders, labels in (
        (["SegmentationClassAug", "SegmentationClass"], (2,)),
        (["SegmentationClass", "SegmentationClassAug"], (0, 14)),
    ):
        samples = load("voc2012", root, mask_folders=folders).splits["train"]
        assert samples[0].ground_truth_labels == labels
