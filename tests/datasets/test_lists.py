"""Lists of images, labels and masks that replace those of a data set."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pipeline.errors import UserError
from tests.datasets.annotated import coco, run_lengths
from tests.datasets.annotated import write as write_json
from tests.datasets.miniature_coco import coco_names
from tests.datasets.miniatures import (
    VOC2007_LISTS,
    VOC2012_LISTS,
    load,
    striped,
    write_labels,
)

CLASSES = ["cat", "person", "traffic light", "cup, small"]


@pytest.fixture
def write(tmp_path):
    """Writes a list and returns its path."""

    def write_text(text: str | bytes, name: str = "list.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write_text


def ids_of(dataset, split):
    return [s.id for s in dataset.splits[split]]


def test_a_list_takes_its_images_in_its_order(voc2012, write):
    path = write("2007_000061 3 14\r\n\r\n2007_000033 0\r\n2007_000061\r\n")
    dataset = load("voc2012", voc2012, split="val", image_list=path)
    assert ids_of(dataset, "val") == ["2007_000061", "2007_000033"]
    assert ids_of(dataset, "train") == VOC2012_LISTS["train"], "only of the split that is worked on"


def test_a_list_is_of_the_split_that_a_data_set_works_on_by_default(voc2007, write):
    dataset = load("voc2007", voc2007, image_list=write("000002\n"))
    assert ids_of(dataset, "test") == ["000002"]
    assert ids_of(dataset, "trainval") == VOC2007_LISTS["trainval"]


def test_a_list_of_other_images_is_refused(voc2012, write):
    def reading(text, **changes):
        path = write(text)
        return load("voc2012", voc2012, image_list=path, **changes).splits

    with pytest.raises(UserError, match="images of one split: say which"):
        reading("2007_000033\n")
    with pytest.raises(UserError, match="list.txt names 2007_000032, .* val"):
        _ = reading("2007_000033\n2007_000032\n", split=["val"])["val"]


def test_labels_of_a_list_win_over_the_data_sets_own(voc2007, write):
    path = write("000001 14 8 14\n000003\n999999 3\n")
    test = load("voc2007", voc2007, labels=path).splits["test"]
    assert [s.ground_truth_labels for s in test] == [(8, 14), (18,), ()]
    assert test[2].has_ground_truth, "an image without classes is known to show none"


def test_tagclips_list_works_as_images_and_as_labels(voc2007, write):
    path = write("000003 17 8\n000001 11\n")
    test = load("voc2007", voc2007, labels=path, image_list=path).splits["test"]
    assert [(s.id, s.ground_truth_labels) for s in test] == [("000003", (8, 17)), ("000001", (11,))]


def test_tagclips_list_of_cocostuff_holds_the_values_of_the_maps(cocostuff, write):
    first, second, third = coco_names("val2017")[:3]
    path = write(f"{first} 0 61 171 180\n{second} 12 91\n{third} 181\n")
    dataset = load("cocostuff", cocostuff, labels=path, image_list=path)
    classes = dataset.vocabulary.classes
    named = [[classes[k] for k in s.ground_truth_labels] for s in dataset.splits["val"]]
    assert named == [
        ["person", "chair", "wall-concrete", "window-other"],
        ["stop sign", "banner"],
        ["wood"],
    ]
    for gap in (11, 182):
        path = write(f"{first} {gap}\n")
        with pytest.raises(UserError, match=f"line 1: {gap} is not a class: give .* 0 to 181"):
            load("cocostuff", cocostuff, labels=path)


def test_lists_of_ade20k_hold_its_own_numbers(ade20k, write):
    path = write("ADE_val_00000001 1 150\n")
    sample = load("ade20k", ade20k, labels=path).splits["val"][0]
    assert sample.ground_truth_labels == (0, 149)


def test_a_list_of_labels_may_be_that_of_one_of_two_splits(voc2012, write):
    path = write("2007_000033 3\n")
    dataset = load("voc2012", voc2012, labels=path)
    assert dataset.splits["train"][0].ground_truth_labels == (0, 14)
    assert dataset.splits["val"][0].ground_truth_labels == (3,)


def test_a_table_names_images_and_classes(photographs, write):
    text = (
        '\ufeff"holiday 2026/e f.jpg", cat , "person"\r\n'
        "\r\n"
        "b.png\r\n"
        'c, "traffic light", "cup, small", cat, cat\r\n'
        './a.jpg, "cup, small",\r\n'
    )
    path = write(text, "labels.csv")
    dataset = load("folder", photographs, classes=CLASSES, labels=path)
    labels = {s.id: s.labels for s in dataset.splits["all"]}
    assert labels == {
        "a": (3,),
        "b": (),
        "c": (0, 2, 3),
        "d": None,
        "holiday 2026/e f": (0, 1),
    }
    assert [s.id for s in dataset.splits["all"] if not s.has_ground_truth] == ["d"]


@pytest.mark.parametrize("file", ["x.jpg", "x.png"])
def test_a_name_in_a_list_is_that_of_a_file_before_that_of_an_id(file, photographs, write):
    (photographs / "a.jpg").rename(photographs / "x.png.jpg")
    (photographs / "b.png").rename(photographs / file)
    path = write(f"{file},cat\nx.png.jpg,person\n", "labels.csv")
    dataset = load("folder", photographs, classes=CLASSES, labels=path)
    labels = {s.id: s.labels for s in dataset.splits["all"]}
    assert (labels["x"], labels["x.png"]) == ((0,), (1,))
    one = load("folder", photographs, classes=CLASSES, image_list=write("x.png\n"))
    assert ids_of(one, "all") == ["x" if file == "x.png" else "x.png"]


def test_a_table_may_hold_any_unicode(tmp_path, write):
    root = tmp_path / "photographs"
    (root / "été 東京").mkdir(parents=True)
    (root / "été 東京" / 'a "b", c.JPG').touch()
    path = write('"été 東京/a ""b"", c.JPG",猫\n', "labels.CSV")
    [sample] = load("folder", root, classes=["猫", "犬"], labels=path).splits["all"]
    assert sample.ground_truth_labels == (0,)


def test_masks_of_a_folder_win_and_are_not_mixed_with_others(voc2012, tmp_path):
    masks = tmp_path / "masks"
    write_labels(masks / "2007_000033.png", striped(2, [0, 7]))
    val = load("voc2012", voc2012, split="val", masks=str(masks)).splits["val"]
    assert val[0].ground_truth_labels == (6,)
    assert [s.mask for s in val[1:]] == [None, None] and not val[1].has_ground_truth

    train = load("voc2012", voc2012, split="train", masks=str(masks)).splits
    with pytest.raises(UserError, match=r"masks=\S+ .* none of .* split train"):
        _ = train["train"]
    with pytest.raises(UserError, match="dataset.masks=/no/such does not"):
        _ = load("voc2012", voc2012, masks="/no/such").splits["train"]


def test_splits_of_equal_ids_have_masks_of_their_own(voc2012, tmp_path):
    [first] = load("voc2012", voc2012, split="val").splits["val"][:1]
    root = shutil.copytree(voc2012, tmp_path / "root")
    listed = root / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text(f"{first.id}\n{listed.read_text()}")
    for split, value in (("train", 3), ("val", 7)):
        write_labels(tmp_path / "masks" / split / f"{first.id}.png", striped(2, [0, value]))
    write_labels(tmp_path / "one" / f"{first.id}.png", striped(2, [0, 7]))

    def labels(split: str, chosen: object, folder: str) -> tuple[int, ...]:
        given = {"split": chosen, "masks": str(tmp_path / folder)}
        return load("voc2012", root, **given).splits[split][0].ground_truth_labels

    both = ["train", "val"]
    assert labels("train", both, "masks") == (2,) and labels("val", both, "masks") == (6,)
    with pytest.raises(UserError, match="neither train/ nor train.json"):
        labels("train", both, "one")
    assert labels("val", "val", "one") == (6,)
    assert labels("train", "val", "one") != (6,), "the masks are those of the other split"


def test_masks_of_others_can_be_taken_for_coco(coco, tmp_path):
    first = coco_names("val2017")[0]
    write_labels(tmp_path / "SegmentationClass" / f"{first}.png", striped(0, [0, 80, 255]))
    changes = {"split": "val", "masks": str(tmp_path / "SegmentationClass")}
    sample = load("coco2017", coco, **changes).splits["val"][0]
    np.testing.assert_array_equal(sample.mask.read(), striped(0, [0, 80, 255]))
    assert sample.ground_truth_labels == (41, 60), "the labels are still the annotations'"


def test_masks_of_a_folder_may_hold_other_values(photographs, tmp_path):
    masks = tmp_path / "masks"
    write_labels(masks / "holiday 2026" / "e f.png", striped(0, [0, 11, 24, 255]))
    changes = {"classes": CLASSES[:2], "masks": str(masks), "values": [24, 11]}
    samples = load("folder", photographs, **changes).splits["all"]
    mask = next(s for s in samples if s.id == "holiday 2026/e f").mask
    np.testing.assert_array_equal(mask.read(), striped(0, [0, 2, 1, 255]))
    plain = load("folder", photographs, **{**changes, "values": None}).splits["all"]
    with pytest.raises(UserError, match="e f.png holds label 11 .* 0 to 2"):
        plain[-1].mask.read()


def test_masks_of_a_brush_are_refused_unless_it_is_said_what_255_is(photographs, tmp_path):
    def read(**changes):
        given = {"classes": ["cup"], "masks": str(tmp_path / "masks"), **changes}
        return load("folder", photographs, **given).splits["all"]

    write_labels(tmp_path / "masks" / "a.png", striped(0, [0]))
    assert read()[0].ground_truth_labels == (), "background alone is no brush's"
    write_labels(tmp_path / "masks" / "b.png", striped(1, [0, 255]))
    with pytest.raises(UserError, match=r"only 0 and 255: is 255 the object\?"):
        read()
    assert read(values=[255])[1].mask.read().max() == 1
    np.testing.assert_array_equal(read(values=[255])[1].mask.read(), striped(1, [0, 1]))
    np.testing.assert_array_equal(read(values=[1])[1].mask.read(), striped(1, [0, 255]))
    write_labels(tmp_path / "masks" / "c.png", striped(2, [0, 1, 255]))
    np.testing.assert_array_equal(read()[1].mask.read(), striped(1, [0, 255]))


def annotations(**changes) -> str:
    content = {
        "categories": [{"id": 7, "name": "Person"}, {"id": 3, "name": "cat"}],
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "holiday 2026/e f.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 7},
            {"image_id": 1, "category_id": 3},
            {"image_id": 1, "category_id": 7},
        ],
    }
    return json.dumps({**content, **changes})


def test_labels_may_be_annotations_of_coco(photographs, write):
    labels = write(annotations(), "annotations.json")
    given = {"classes": CLASSES, "labels": str(labels)}
    samples = load("folder", photographs, **given).splits["all"]
    assert [s.has_ground_truth for s in samples] == [True, False, False, False, True]
    assert samples[0].ground_truth_labels == (0, 1) and samples[4].ground_truth_labels == ()
    given |= {"classes": CLASSES[:1], "join": {"cat": ["person"]}}
    samples = load("folder", photographs, **given).splits["all"]
    assert samples[0].ground_truth_labels == (0,)


def test_labels_of_scored_annotations_reach_the_minimum_score(photographs, write):
    scored = [{"image_id": 1, "category_id": k, "score": s} for k, s in ((7, 0.4), (3, 0.6))]
    labels = write(annotations(annotations=scored), "annotations.json")
    given = {"classes": CLASSES, "labels": str(labels), "min_score": 0.5}
    samples = load("folder", photographs, **given).splits["all"]
    assert samples[0].ground_truth_labels == (0,)


def test_labels_may_be_choices_of_label_studio(photographs, write, capsys):
    choices = {"type": "choices", "value": {"choices": ["person", "tree"]}}
    task = {"data": {"image": "/data/local-files/?d=mine/b.png"}}
    tasks = [{**task, "annotations": [{"result": [choices]}]}]
    given = {"classes": CLASSES, "labels": str(write(json.dumps(tasks), "export.json"))}
    dataset = load("folder", photographs, **given)
    assert dataset.splits["all"][1].ground_truth_labels == (1,)
    noted = "note: export.json has 1 instances of names that are not classes: tree (1)"
    assert noted in capsys.readouterr().err


def test_other_json_is_named(photographs, write):
    labels = write("[1, 2]", "annotations.json")
    with pytest.raises(UserError, match="neither images with COCO's annot"):
        _ = load("folder", photographs, classes=CLASSES, labels=str(labels)).splits["all"]


@pytest.mark.parametrize("second", [(1, "b.png"), (2, "a.jpg")])
def test_an_image_whose_entry_is_not_its_own_has_no_labels(second, photographs, write):
    named = [(1, "a.jpg"), second, (3, "c.webp")]
    images = [{"id": number, "file_name": name} for number, name in named]
    labels = str(write(annotations(images=images), "annotations.json"))
    samples = load("folder", photographs, classes=CLASSES, labels=labels).splits["all"]
    with pytest.raises(UserError, match="image a: its scores .* has two"):
        _ = samples[0].ground_truth_labels
    assert samples[2].ground_truth_labels == ()


def test_labels_of_further_images_are_a_note(photographs, write):
    lines = "".join(f"x{k} 1\n" for k in range(30))
    labels = write(f"a 0\n{lines}", "labels.txt")
    dataset = load("folder", photographs, classes=CLASSES, labels=str(labels))
    assert dataset.rejected == {"all": []} and dataset.splits["all"][0].labels == (0,)
    assert dataset.notes == ("labels.txt names x0 and 29 more, which are not images",)


def test_masks_of_other_programs_are_ground_truth(photographs, tmp_path):
    pixels = striped(0, [0, 1]) == 1
    instances = [{"category_id": 8, "segmentation": run_lengths(pixels)}]
    content = coco([("holiday 2026/e f.jpg", instances)], ["no class", "lynx"], pixels.shape)
    path = write_json(tmp_path / "truth.json", content)
    changes = {"classes": CLASSES[:2], "masks": str(path), "join": {CLASSES[1]: "lynx"}}

    def samples(**more):
        return load("folder", photographs, **changes, **more).splits["all"]

    found = {s.id: s for s in samples()}
    truth = found.pop("holiday 2026/e f")
    np.testing.assert_array_equal(truth.mask.read(), pixels * 2)
    assert truth.ground_truth_labels == (1,) and not any(s.mask for s in found.values())
    large = next(s for s in samples(max_pixels=9) if s.mask)
    with pytest.raises(UserError, match="2026/e f: .*dataset.max_pixels=9"):
        large.mask.read()
