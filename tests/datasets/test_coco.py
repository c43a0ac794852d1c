"""COCO's instances: ids, labels, and masks that are drawn from polygons and run lengths."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.draw import polygon2mask

from pipeline.datasets.ground_truth import InstanceMask
from pipeline.engine.pool import in_processes
from pipeline.errors import UserError
from tests.datasets.miniature_coco import (
    COCO_IDS,
    COCO_NAMES,
    COCO_SHAPES,
    CUP,
    DOG,
    PERSON,
    TABLE,
    TOOTHBRUSH,
    build_coco,
    coco_names,
    disc,
    packed,
    run_lengths,
)
from tests.datasets.miniatures import copy_of, load, settings_of, size_of

LABEL = {category: k + 1 for k, category in enumerate(COCO_IDS)}


def drawn(index: int, polygons: list[list[float]]) -> np.ndarray:
    """Returns polygons as scikit-image draws them."""
    size = size_of(index)
    corners = [np.reshape(p, (-1, 2))[:, ::-1] - 0.5 for p in polygons]
    return np.any([polygon2mask(size, c) for c in corners], axis=0)


def change_annotations(root, change):
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damaged_copy(coco, tmp_path, change):
    root = copy_of(coco, tmp_path)
    change_annotations(root, change)
    return root


@pytest.mark.parametrize("images", ["", "images/", "JPEGImages/"])
@pytest.mark.parametrize("split", ["val2017", "train2014"])
def test_images_are_found_in_every_usual_place(tmp_path, split, images):
    root = build_coco(tmp_path, split, images)
    dataset = load(f"coco{split[-4:]}", root)
    assert list(dataset.splits) == [split[:-4]]
    samples = dataset.splits[split[:-4]]
    assert [s.id for s in samples] == [n for n, s in zip(coco_names(split), COCO_SHAPES) if s]
    assert all(s.image == root / f"{images}{split}" / f"{s.id}.jpg" for s in samples)
    assert all(s.image.is_file() for s in samples)


def test_gaps_in_cocos_ids_are_closed(coco):
    dataset = load("coco2017", coco)
    classes = dataset.vocabulary.classes
    assert len(classes) == len(COCO_IDS) == 80
    named = [{classes[k] for k in s.ground_truth_labels} for s in dataset.splits["val"]]
    assert named == [{"cup", "diningtable"}, {"person", "dog"}, {"person", "toothbrush"}, {"dog"}]
    assert LABEL[TOOTHBRUSH] == 80 and LABEL[PERSON] == 1 and LABEL[TABLE] == 61


def test_images_without_instances_are_left_out_unless_they_are_wanted(coco):
    assert len(load("coco2017", coco).splits["val"]) == 4
    samples = load("coco2017", coco, only_annotated=False).splits["val"]
    assert [s.id for s in samples] == coco_names("val2017")
    assert samples[3].ground_truth_labels == () and samples[3].has_ground_truth
    assert not samples[3].mask.read().any()


def test_masks_have_the_size_of_their_images(coco):
    for sample in load("coco2017", coco, only_annotated=False).splits["val"]:
        with Image.open(sample.image) as image:
            assert sample.mask.read().shape == (image.height, image.width)


def test_polygons_are_drawn_as_elsewhere_but_for_their_borders(coco):
    table, two_dogs = (load("coco2017", coco).splits["val"][k].mask.read() for k in (0, 3))
    for mask, index, label, shapes in (
        (table, 0, LABEL[TABLE], [COCO_SHAPES[0][1][2]]),
        (two_dogs, 4, LABEL[DOG], [shape for _, _, shape in COCO_SHAPES[4]]),
    ):
        wanted = drawn(index, [polygon for shape in shapes for polygon in shape])
        covered = np.isin(mask, [label, LABEL[CUP]])
        assert wanted.sum() > 300
        assert (covered | ~binary_erosion(wanted)).all()
        assert (binary_dilation(wanted) | ~covered).all()


def test_the_smaller_object_lies_over_the_larger(coco):
    mask = load("coco2017", coco).splits["val"][0].mask.read()
    assert (mask[25:39, 21:35] == LABEL[CUP]).all()
    assert (mask[45:55, 15:55] == LABEL[TABLE]).all()
    assert (mask[6:14, 76:82] == LABEL[TABLE]).all(), "the second part of the table"
    assert set(np.unique(mask)) == {0, LABEL[CUP], LABEL[TABLE]}


def test_a_crowd_lies_under_single_objects_whatever_its_size(coco):
    mask = load("coco2017", coco).splits["val"][1].mask.read()
    crowd = disc(1, 40, 20, 12)
    dog = drawn(1, COCO_SHAPES[1][1][2])
    assert crowd.sum() < dog.sum() and (crowd & dog).sum() > 100
    assert (mask[crowd & dog] == LABEL[DOG]).all()
    np.testing.assert_array_equal(mask == LABEL[PERSON], crowd & ~dog)


@pytest.mark.parametrize("form", [run_lengths, packed])  # as a list, and as pycocotools' text
def test_any_run_lengths_are_drawn_exactly(form):
    rng = np.random.default_rng(0)
    for height, width, zoom in [(7, 5, 1), (16, 12, 1), (30, 40, 1), (20, 30, 9)]:
        wanted = np.kron(rng.random((height, width)) < 0.3, np.ones((zoom, zoom), bool))
        mask = InstanceMask("x", *wanted.shape, ((3, form(wanted)),))
        np.testing.assert_array_equal(mask.read(), np.where(wanted, 3, 0))


@pytest.mark.parametrize(
    "shape",
    [
        {"counts": "1"},
        {"counts": ""},
        {"counts": "`" * 40},
        {"counts": "\x01"},
        {"counts": "h3P"},  # 120 pixels, and the beginning of a further number
        {"counts": [119]},
        {"counts": [60, 61]},
        {"counts": [130, -10]},
        {"counts": [10**30]},
        {"counts": []},
        {"counts": [120], "size": [12, 10]},
        {"counts": [0, 120], "size": [10**5, 10**5]},
        [[1e9, 1, 9, 1, 9, 9, 1, 9]],
        [[1, 1, 9, 1, 9, -1e9, 1, 9]],
        [[float("nan"), 1, 9, 1, 9, 9, 1, 9]],
        [[1, 1, 9, 1, float("inf"), 9, 1, 9]],
        5,
        [["a"] * 8],
        [{"counts": [9], "size": [3, 3]}],
    ],
)
def test_damaged_shapes_are_refused_before_they_are_drawn(shape):
    if isinstance(shape, dict):
        shape = {"size": [10, 12], **shape}
    mask = InstanceMask("x", 10, 12, ((3, shape),))
    with pytest.raises(UserError, match="image x cannot be drawn in 12×10 .*download"):
        mask.read()


def test_runs_and_corners_that_fit_are_drawn():
    def draw(shape):
        return InstanceMask("x", 10, 12, ((3, shape),)).read()

    assert (draw({"size": [10, 12], "counts": "0h3"}) == 3).all()
    assert not draw({"size": [10, 12], "counts": "h3"}).any()
    assert (draw([[-5, -5, 20, -5, 20, 20, -5, 20]]) == 3).all(), "a little outside the image"


def test_images_larger_than_the_limit_are_refused_before_they_are_drawn(coco):
    sample = load("coco2017", coco, max_pixels=4000).splits["val"][0]
    with pytest.raises(UserError, match="139 .* dataset.max_pixels=4000"):
        sample.mask.read()


def test_what_has_no_three_corners_covers_nothing():
    shapes = ([], [[1, 1, 9, 9]], [[1, 1, 9, 9], [2, 2, 8, 2, 8, 8, 2, 8]])
    for shape, covers in zip(shapes, (False, False, True)):
        mask = InstanceMask("x", 10, 12, ((3, shape),)).read()
        assert mask.any() == covers and mask[3:7, 3:7].any() == covers
        assert not mask[1:2].any()


def test_the_content_of_a_mask_is_that_of_the_annotations_of_its_image(coco, tmp_path):
    root = copy_of(coco, tmp_path)
    first = [s.mask.contents for s in load("coco2017", root).splits["val"]]

    def change(content):
        cup = next(a for a in content["annotations"] if a["category_id"] == CUP)
        cup["segmentation"] = 5

    change_annotations(root, change)
    samples = load("coco2017", root).splits["val"]
    now = [s.mask.contents for s in samples]
    assert now[0] != first[0] and now[1:] == first[1:]
    with pytest.raises(UserError, match=rf"image {samples[0].id} cannot be drawn"):
        samples[0].mask.read()


def test_samples_can_be_sent_to_processes(coco, cocostuff, voc2012, sbd):
    samples = [
        *load("coco2017", coco).splits["val"],
        *load("cocostuff", cocostuff).splits["val"],
        *load("voc2012", voc2012, sbd_root=str(sbd), label_source="xml").splits["train_aug"],
    ]
    for sample in samples:
        sent = pickle.loads(pickle.dumps(sample))
        assert (sent.id, sent.image, sent.mask) == (sample.id, sample.image, sample.mask)
        np.testing.assert_array_equal(sent.mask.read(), sample.mask.read())
        assert sent.ground_truth_labels == sample.ground_truth_labels
    read = {s.id: total for s, total in in_processes(samples[:3], lambda s: s.mask.read().sum(), 2)}
    assert read == {s.id: s.mask.read().sum() for s in samples[:3]}


def test_missing_images_of_a_split_that_is_not_used_are_ignored(coco, tmp_path):
    root = copy_of(coco, tmp_path)
    annotations = root / "annotations"
    train = annotations / "instances_train2017.json"
    train.write_bytes((annotations / "instances_val2017.json").read_bytes())
    dataset = load("coco2017", root, split="val")
    assert len(dataset.splits["val"]) == 4
    with pytest.raises(UserError, match=r"no train2017 .*line \d+"):
        _ = dataset.splits["train"]


def test_an_image_below_a_folder_has_its_path_as_id(coco, tmp_path):
    root = copy_of(coco, tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "city/a.b.jpg"
    path.write_text(json.dumps(content))
    samples = {s.id: s for s in load("coco2017", root, split="val").splits["val"]}
    assert samples["city/a.b"].file == "city/a.b.jpg"


OTHER = "is not an annotation file of COCO: download it again"


def test_annotations_that_are_cut_are_refused(coco, tmp_path):
    path = copy_of(coco, tmp_path) / "annotations" / "instances_val2017.json"
    whole = path.read_text()
    contents = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    contents += ["[]", "{", "null", '{"images": []}', '{"images": ' + "[" * 100_000, "[" * 100_000]
    for content in contents:
        path.write_text(content)
        with pytest.raises(UserError, match=f"instances_val2017.json {OTHER}"):
            _ = load("coco2017", path.parents[1]).splits["val"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), OTHER),
        (lambda c: c["annotations"][0].pop("segmentation"), OTHER),
        (lambda c: c["annotations"][0].update(category_id=12), OTHER),
        (lambda c: c["annotations"][0].update(area="x"), OTHER),
        (lambda c: c["images"][0].pop("height"), OTHER),
        (lambda c: c["images"][0].update(height=10**9), OTHER),
        (lambda c: c["images"][0].update(width=-1), OTHER),
        (lambda c: c["images"][0].update(width="56"), OTHER),
        (lambda c: c["images"][0].update(file_name=5), OTHER),
        (lambda c: c["images"].append({**c["images"][0], "id": 7}), "gives two images the same"),
        (lambda c: c.update(images={"a": 1}), OTHER),
        (lambda c: c.update(images=3, annotations=3, categories=3), OTHER),
        (lambda c: c.update(images=[3], annotations=[], categories=[]), OTHER),
        (lambda c: c.update(categories=[5]), OTHER),
        (
            lambda c: c["categories"].pop(0) and c["annotations"].clear(),
            "has no category toothbrush: give the annotations of the instances",
        ),
        (
            lambda c: c["categories"][0].update(name="tooth brush"),
            "names tooth brush, which is not one of the classes: .* dataset.annotated_as",
        ),
        (lambda c: c["categories"].append({"id": 99, "name": "Cat"}), "names one class twice"),
        (lambda c: c["categories"][0].update(name=5), OTHER),
    ],
)
def test_other_annotations_are_refused(coco, tmp_path, change, message):
    root = damaged_copy(coco, tmp_path, change)
    with pytest.raises(UserError, match=rf"instances_val2017.json {message}"):
        _ = load("coco2017", root).splits["val"]


def test_the_classes_can_be_renamed_but_not_dropped(coco):
    names = [f"my {k}" for k in range(80)]
    renamed = {"classes": names, "cam_names": None}
    with pytest.raises(UserError, match="toothbrush, which is not"):
        _ = load("coco2017", coco, **renamed).splits["val"]
    dataset = load("coco2017", coco, **renamed, annotated_as=COCO_NAMES)
    assert dataset.splits["val"][3].ground_truth_labels == (16,)
    few = settings_of("coco2017", coco)["classes"][:20]
    with pytest.raises(UserError, match="toothbrush, which is not"):
        _ = load("coco2017", coco, classes=few, cam_names=None).splits["val"]
    with pytest.raises(UserError, match="dataset.annotated_as holds 2"):
        load("coco2017", coco, annotated_as=["cat", "dog"])


def test_categories_are_matched_by_name_and_not_by_their_numbers(coco, tmp_path):
    def renumber(content):
        for item in content["categories"]:
            item.update(id=1000 - item["id"], name=item["name"].upper())
        for item in content["annotations"]:
            item["category_id"] = 1000 - item["category_id"]

    before = load("coco2017", coco).splits["val"]
    after = load("coco2017", damaged_copy(coco, tmp_path, renumber)).splits["val"]
    assert [s.ground_truth_labels for s in after] == [s.ground_truth_labels for s in before]
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one.mask.read(), other.mask.read())
