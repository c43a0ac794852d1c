"""Annotations of other programs become labels, to the pixel; what cannot be used is named."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.datasets import annotation_index
from pipeline.datasets.annotations import AnnotatedMask, Drawings, open_annotations
from pipeline.datasets.instances import Instance, draw
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.images import encode_png
from tests.datasets.annotated import (
    CLASSES,
    SIZE,
    boxes,
    coco,
    instance,
    labelme,
    labelme_mask,
    opened,
    reading,
    run_lengths,
    stroke,
    task,
    write,
)

CAT, DOG = boxes((1, 1, 8, 9)), boxes((4, 5, 11, 16), (0, 14, 2, 17))
EXPECTED = np.where(CAT, 1, np.where(DOG, 2, 0))
"""Of equal scores the smaller one, the cat, lies above."""

TRIANGLE = [[1.5, 2.0], [15.0, 3.5], [6.0, 10.5]]


def painted(instances, size, min_score=0.0) -> np.ndarray:
    """Returns the labels by the rule, pixel by pixel."""
    labels = np.zeros(size, int)
    for place in np.ndindex(*size):
        here = [
            (-score, pixels.sum(), number, label, crowd)
            for number, (label, score, crowd, pixels) in enumerate(instances)
            if label is not None and pixels[place]
        ]
        sure = [each for each in here if not each[4] and -each[0] >= min_score]
        labels[place] = min(sure)[3] if sure else 255 if here else 0
    return labels


@pytest.mark.parametrize("seed", range(6))
def test_labels_of_instances_follow_the_rule(seed):
    rng, drawn, instances = np.random.default_rng(seed), [], []
    names = [*CLASSES, "no class"]
    for _ in range(9):
        pixels = np.zeros(SIZE, bool)
        top, left = rng.integers(0, 8), rng.integers(0, 12)
        pixels[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)] = True
        name, score, crowd = rng.choice(names), rng.choice([0.2, 0.5, 0.9]), rng.random() < 0.2
        label = CLASSES.index(name) + 1 if name in CLASSES else None
        drawn.append((label, score, crowd, pixels))
        instances.append(Instance(name, score, crowd, run_lengths(pixels)))
    for min_score in (0.0, 0.4, 1.0):
        labels = draw(instances, reading().label_of, SIZE, min_score)
        np.testing.assert_array_equal(labels, painted(drawn, SIZE, min_score))


def test_every_form_gives_the_same_labels(tmp_path):
    regions = [("dog", DOG), ("cat", CAT)]
    annotations = [instance(*each) for each in regions]
    strokes = [stroke(*each) for each in regions]
    content = coco([("a.jpg", annotations), ("b c/d.png", [])])
    results = [each | {"score": 0.5} for each in content.pop("annotations")]
    write(tmp_path / "results" / "images.json", content)
    masks = {
        "data set": write(tmp_path / "coco.json", content | {"annotations": results}),
        "results": write(tmp_path / "results" / "found.json", results),
        "tasks": write(
            tmp_path / "tasks.json",
            [
                task("/data/upload/3/0a1b2c3d-a.jpg?x=1", *strokes),
                task("/data/local-files/?d=photos/b%20c/d.png"),
            ],
        ),
        "labelme": write(
            tmp_path / "labelme" / "a.json", labelme(*(labelme_mask(*each) for each in regions))
        ).parent,
    }
    write(tmp_path / "labelme" / "b c" / "d.json", labelme())
    found = {name: opened(path) for name, path in masks.items()}
    for name, annotations in found.items():
        drawing = pickle.loads(pickle.dumps(annotations.find("a")))
        np.testing.assert_array_equal(drawing.labels(SIZE), EXPECTED, err_msg=name)
        np.testing.assert_array_equal(drawing.labels(None), EXPECTED, err_msg=name)
        assert drawing.scores.keys() == {0, 1} and not annotations.notes
        assert not annotations.find("b c/d").labels(SIZE).any()
        with pytest.raises(NoEntry, match="has no entry in"):
            annotations.find("e")
    assert found["results"].find("a").scores == {0: 0.5, 1: 0.5}


def test_masks_in_pngs_are_labels_values_or_colours(tmp_path):
    labels = EXPECTED.astype(np.uint8)
    labels[0, 0] = 255
    forms = {
        "labels": (encode_png(labels), {}),
        "values": (encode_png(np.uint8([0, 40, 9, 7])[labels % 4]), {"values": [40, 9, 8]}),
        "palette": (encode_png(labels, [(0, 0, 0), (9, 9, 9), (1, 2, 3)]), {"palette": "colour"}),
        "colours": (encode_png(np.uint8([[0] * 3, [9] * 3, [1, 2, 3], [7] * 3])[labels % 252]), {}),
    }
    table = tmp_path / "table.txt"
    table.write_text("9 9 9 cat\n1,2,3,dog\nvoid:224,224,192\n7 7 7 ignore\n")
    for name, (content, settings) in forms.items():
        path = tmp_path / name / "b c" / "d.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        if name in ("palette", "colours"):
            settings["colours"] = str(table)
        found = opened(tmp_path / name, **settings).find("b c/d")
        np.testing.assert_array_equal(found.labels(SIZE), labels, err_msg=name)
        assert found.scores == {0: 1.0, 1: 1.0}
        with pytest.raises(NoEntry, match=r"has no mask: \S+e.png is missing"):
            opened(tmp_path / name).find("e")


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_and_polygons_are_those_of_pycocotools(compressed, tmp_path):
    corners = [x for corner in TRIANGLE for x in corner]
    runs = coco_mask.frPyObjects([corners], *SIZE)
    triangle = coco_mask.decode(runs)[..., 0].astype(bool)
    assert 40 < triangle.sum() < 80
    segmentation = [corners]
    if compressed:
        segmentation = runs[0] | {"counts": runs[0]["counts"].decode()}
    annotation = {"category_id": 7, "segmentation": segmentation}
    drawings = [opened(write(tmp_path / "coco.json", coco([("a.jpg", [annotation])])))]
    points = (np.array(TRIANGLE) / [SIZE[1], SIZE[0]] * 100).tolist()
    value = {"points": points, "polygonlabels": ["cat"]}
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1]}
    polygon = {"type": "polygonlabels", "value": value, **sizes}
    drawings += [opened(write(tmp_path / "tasks.json", [task("a.jpg", polygon)]))]
    for found in drawings:
        np.testing.assert_array_equal(found.find("a").labels(SIZE), triangle)


def test_shapes_of_labelme(tmp_path):
    path = write(tmp_path / "a.json", labelme())

    def drawn(kind, points):
        write(path, labelme({"label": "dog", "points": points, "shape_type": kind}))
        return opened(tmp_path).find("a").labels(SIZE) == 2

    # labelme draws the pixels on the line as well.
    np.testing.assert_array_equal(drawn("rectangle", [[3, 2], [9, 7]]), boxes((2, 3, 8, 10)))
    np.testing.assert_array_equal(drawn("rectangle", [[9, 7], [3, 2]]), boxes((2, 3, 8, 10)))
    box = [[3, 2], [9, 2], [9, 7], [3, 7]]
    for kind in ("polygon", "oriented_rectangle"):
        np.testing.assert_array_equal(drawn(kind, box), boxes((2, 3, 8, 10)))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    circle = np.hypot(rows - 6, columns - 8) < 4.5
    assert (drawn("circle", [[8, 6], [8, 10]]) != circle).mean() < 0.05
    assert not drawn("linestrip", [[1, 1], [9, 9]]).any() and not drawn("point", [[1, 1]]).any()
    with pytest.raises(ImageError, match="a.json has an entry of it .* type cloud"):
        drawn("cloud", [[1, 1], [9, 9]])


def test_the_newest_annotation_that_was_not_cancelled_counts(tmp_path):
    def annotation(name, date, **more):
        return {"result": [stroke(name, CAT)], "updated_at": date, **more}

    tasks = [task("a.jpg"), task("b.jpg"), task("c.jpg", stroke("cat", CAT))]
    tasks[0]["annotations"] = [
        annotation("dog", "2026-02-01"),
        annotation("cat", "2026-01-01"),
        annotation("cat", "2026-03-01", was_cancelled=True),
    ]
    tasks[1]["annotations"] = [annotation("dog", "2026-02-01", was_cancelled=True)]
    tasks[2]["annotations"] += [{"result": [stroke("traffic light", CAT)]}]
    found = opened(write(tmp_path / "tasks.json", tasks))
    assert found.find("a").scores == {1: 1.0} and found.find("c").scores == {2: 1.0}
    [note] = found.notes
    assert note == "tasks.json has 1 tasks without a submitted annotation, the first at image b"
    with pytest.raises(NoEntry):
        found.find("b")


def test_choices_are_tags_and_cover_nothing(tmp_path):
    choice = {"type": "choices", "value": {"choices": ["dog", "cat"]}}
    found = opened(write(tmp_path / "tasks.json", [task("a.jpg", choice)])).find("a")
    assert found.scores == {0: 1.0, 1: 1.0} and not found.labels(SIZE).any()


def test_images_of_label_studio_are_found_below_any_folder_if_that_is_clear(tmp_path):
    tasks = [task(f"s3://bucket/{name}.jpg", stroke("cat", CAT)) for name in ("x/a", "y/a", "y/b")]
    tasks.append(task("a.jpg", stroke("dog", DOG)))
    found = opened(write(tmp_path / "tasks.json", tasks))
    assert found.find("a").scores == {1: 1.0}, "the exact name wins"
    assert found.find("x/a").scores == found.find("b").scores == {0: 1.0}
    found = opened(write(tmp_path / "tasks.json", tasks[:3]))
    with pytest.raises(ImageError, match="several entries of it, such as /y/a"):
        found.find("a").labels(SIZE)


def test_names_that_are_no_class_are_counted_or_joined(tmp_path):
    regions = [instance("cat", CAT), instance("dog", DOG), instance("dog", CAT)]
    content = coco([("a.jpg", regions)], ["Cat", "rider", "lamp"])
    path = write(tmp_path / "a.json", content)
    found = opened(path)
    assert found.notes == ["a.json has 2 instances of names that are not classes: rider (2)"]
    assert found.find("a").scores == {0: 1.0}
    joined = opened(path, join={"dog": ["rider", "walker"]})
    assert joined.find("a").scores == {0: 1.0, 1: 1.0} and not joined.notes
    np.testing.assert_array_equal(joined.find("a").labels(SIZE), EXPECTED)
    with pytest.raises(UserError, match=r"masks.join counts rider as two classes"):
        reading(join={"dog": "rider", "cat": "rider"})
    with pytest.raises(UserError, match=r"masks.join: bird is not a class"):
        reading(join={"bird": "rider"})
    with pytest.raises(UserError, match=r"masks.join=rider does not join names to classes"):
        reading(join="rider")


def test_the_best_of_joined_names_is_the_score(tmp_path):
    strokes = [stroke("rider", CAT, score=0.9), stroke("dog", CAT, score=0.2)]
    path = write(tmp_path / "tasks.json", [task("a.jpg", *strokes)])
    assert opened(path, join={"dog": "rider"}).find("a").scores == {1: 0.9}


def test_categories_of_equal_names_are_one_class(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT, score=0.3), instance("dog", DOG)])])
    content["categories"][1]["name"] = "cat"
    found = opened(write(tmp_path / "a.json", content)).find("a")
    assert found.scores == {0: 1.0}
    np.testing.assert_array_equal(found.labels(SIZE), EXPECTED > 0)


def test_the_content_of_an_entry_is_its_own_and_all_of_it(tmp_path):
    base = coco([("a.jpg", [instance("cat", CAT), instance("dog", DOG)]), ("b.jpg", [])])

    def contents(change=lambda content: None):
        content = json.loads(json.dumps(base))
        change(content)
        found = opened(write(tmp_path / "a.json", content))
        return found.find("a").content, found.find("b").content

    before, other = contents()
    same = [
        lambda c: [a.update(id=a["id"] + 900, bbox=[1, 2, 3, 4]) for a in c["annotations"]],
        lambda c: (
            [image.update(id=image["id"] + 5, date="now") for image in c["images"]]
            + [a.update(image_id=a["image_id"] + 5) for a in c["annotations"]]
        ),
        lambda c: c["images"].reverse(),
        lambda c: c["categories"].append({"id": 99, "name": "more"}),
        lambda c: [a.update(score=None) for a in c["annotations"]],
    ]
    for number, change in enumerate(same):
        assert contents(change) == (before, other), number
    changed = [
        lambda c: c["annotations"][0].update(score=0.5),
        lambda c: c["annotations"][0].update(iscrowd=1),
        lambda c: c["annotations"][0].update(segmentation=run_lengths(DOG)),
        lambda c: c["annotations"].reverse(),
        lambda c: c["annotations"].pop(),
        lambda c: c["categories"][0].update(name="bird"),
        lambda c: (c["categories"][0].update(id=8), c["categories"][1].update(id=7)),
        lambda c: c["images"][0].update(height=13),
    ]
    found = [contents(change) for change in changed]
    assert {b for _, b in found} == {other}
    assert len({a for a, _ in found} | {before}) == 9


def test_masks_of_another_size_and_without_a_size_are_named(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT)])])
    found = opened(write(tmp_path / "a.json", content)).find("a")
    with pytest.raises(ImageError, match="a.json is of 17×12 pixels, and the image of 12×17"):
        found.labels((17, 12))
    del content["images"][0]["height"], content["images"][0]["width"]
    found = opened(write(tmp_path / "a.json", content)).find("a")
    np.testing.assert_array_equal(found.labels(SIZE), CAT)
    with pytest.raises(ImageError, match="gives its image no height and width"):
        found.labels(None)


def test_a_file_that_changed_after_it_was_indexed_is_not_read(tmp_path):
    path = write(tmp_path / "a.json", coco([("a.jpg", [instance("cat", CAT)])]))
    found = opened(path).find("a")
    write(path, coco([("a.jpg", [instance("dog", CAT)])]))
    with pytest.raises(ImageError, match="has changed since it was read: run the same command"):
        found.labels(SIZE)


def test_masks_are_drawn_once_in_a_folder_of_their_own_or_are_files(tmp_path):
    path = write(tmp_path / "a.json", coco([("a.jpg", [instance("cat", CAT)])]))
    mask = AnnotatedMask(tmp_path / "kept" / "a.png", opened(path).find("a"))
    written = mask.file()
    np.testing.assert_array_equal(np.asarray(Image.open(written)), CAT)
    assert written.parent == tmp_path / "kept" and written == mask.file()
    joined = opened(path, join={"dog": "hound"}).find("a")
    assert AnnotatedMask(mask.kept, joined).file() != written
    with pytest.raises(
        UserError, match="image a: its mask has more than dataset.max_pixels=200 pixels"
    ):
        AnnotatedMask(tmp_path / "other" / "a.png", mask.annotation, max_pixels=200).file()
    png = tmp_path / "pngs" / "a.png"
    png.parent.mkdir()
    for content in (encode_png(np.uint8(CAT)), encode_png(np.uint8(CAT), [(0, 0, 0)]), b"damaged"):
        png.write_bytes(content)
        assert AnnotatedMask(mask.kept, opened(png.parent).find("a")).file() == png
    png.write_bytes(encode_png(np.uint8(CAT)[..., None] * np.uint8([128, 0, 0])))
    drawn = AnnotatedMask(mask.kept, opened(png.parent).find("a")).file()
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), CAT)


# Files that cannot be used


def refusal(path, **settings) -> str:
    with pytest.raises(UserError) as error:
        opened(path, **settings)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    return str(error.value)


def test_files_of_no_form_are_refused(tmp_path):
    path = tmp_path / "a.json"
    wrong = [[], {}, {"images": []}, [5], [{"label": 5}], {"shapes": []}, [[]], {"images": [[]]}]
    for content in wrong:
        assert "holds neither images with COCO's" in refusal(write(path, content)), content
    path.write_bytes(b"")
    assert "is not complete JSON (it ends" in refusal(path)
    os.mkfifo(tmp_path / "pipe.json")
    assert "cannot be read (it is not a file)" in refusal(tmp_path / "pipe.json")
    for missing in ("/no/such", "x" * 5000):
        assert "does not exist: give a folder of label PNGs" in refusal(missing)
    (tmp_path / "link.json").symlink_to("nothing")
    assert "cannot be read (No such file" in refusal(tmp_path / "link.json")
    content = coco([("a.jpg", [instance("cat", CAT)])])
    path = write(tmp_path / "found.json", content["annotations"])
    assert "put the JSON of the data set, with images and categories, beside it" in refusal(path)
    for categories in ([5], [{"id": 1}], [{"id": 7, "name": "a"}, {"id": "7", "name": "b"}]):
        path = write(tmp_path / "a.json", content | {"categories": categories})
        assert "has categories that are not COCO's" in refusal(path)


def test_a_folder_named_like_json_is_a_folder_and_parts_of_masks_are_refused(tmp_path):
    folder = tmp_path / "x.json"
    (folder / "notes.json").mkdir(parents=True)
    write(folder / "meta.json", {"shape": 5})
    os.mkfifo(folder / "pipe.json")
    (folder / "a.png").write_bytes(encode_png(np.uint8(CAT)))
    np.testing.assert_array_equal(opened(folder).find("a").labels(SIZE), CAT)
    (folder / "task-1-annotation-2-by-me@x.org-label-cat-0.png").write_bytes(b"")
    assert "holds Label Studio's PNGs, of which each is a part of a mask" in refusal(folder)


def test_splits_have_files_of_their_own(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.json", coco([(f"{split}.jpg", [])]))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.png").write_bytes(encode_png(np.uint8(CAT)))

    def of(split, path=tmp_path):
        return open_annotations(str(path), "masks.path", reading(), None, split, several=True)

    assert of("train").find("train") and of("val").find("val") and of("test").find("a")
    with pytest.raises(NoEntry):
        of("train").find("val")
    for path in (tmp_path, tmp_path / "val.json"):
        with pytest.raises(UserError, match="holds neither other/ nor other.json: with several"):
            of("other", path)


def problem_of(path, image_id="a") -> str:
    with pytest.raises(ImageError) as error:
        opened(path).find(image_id).labels(SIZE)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    assert str(error.value).startswith("its mask cannot be used: ")
    return str(error.value)


BOMB = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x01\0\0\0\0\0\0\0\0"
).decode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": "high"}, "a score of high, where 0 to 1"),
        ({"score": 1.5}, "a score of 1.5"),
        ({"score": float("nan")}, "a score of nan"),
        ({"score": 10**400}, "a score of 1000"),
        ({"score": True}, "a score of True"),
        ({"category_id": 99}, "without a known category"),
        ({"category_id": [7]}, r"an id that is \[7\]"),
        ({"segmentation": {"size": [*SIZE], "counts": [10**10]}}, "not those of 17×12 pixels"),
        ({"segmentation": {"size": [10**5] * 2, "counts": [10**10]}}, "not those of 17×12"),
        ({"segmentation": {"size": [*SIZE], "counts": [-4, 208]}}, "not those of 17×12 pixels"),
        ({"segmentation": {"size": [*SIZE], "counts": "000"}}, "not those of 17×12 pixels"),
        ({"segmentation": {"size": [*SIZE], "counts": "é"}}, "is damaged .UnicodeEncodeError"),
        ({"segmentation": {"size": [*SIZE]}}, "is damaged .KeyError"),
        ({"segmentation": [[0, 0, 5, float("nan"), 5, 5]]}, "a corner far from the image"),
        ({"segmentation": [[0, 0, 5, 10**400, 5, 5]]}, "is damaged .OverflowError"),
        ({"segmentation": [[0, 0, 1e300, 5, 5, 5]]}, "a corner far from the image"),
        ({"segmentation": [["a"] * 8]}, "is damaged .ValueError"),
        ({"segmentation": 5}, "is damaged .TypeError"),
        ({"segmentation": None}, "a.json"),
    ],
)
def test_a_damaged_annotation_leaves_out_its_image_alone(change, reason, tmp_path):
    images = [("a.jpg", [instance("cat", CAT) | change]), ("b.jpg", [instance("dog", DOG)])]
    path = write(tmp_path / "a.json", coco(images))
    np.testing.assert_array_equal(opened(path).find("b").labels(SIZE), DOG * 2)
    if change == {"segmentation": None}:
        assert not opened(path).find("a").labels(SIZE).any()
        return
    pytest.raises(ImageError, opened(path).find("a").labels, SIZE).match(reason)
    assert problem_of(path)


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([stroke("cat", CAT[:5])], "is of 17×5 pixels, and the image of 17×12"),
        ([stroke("cat", CAT[:5]) | {"original_height": 12}], "run lengths of another size"),
        ([{**stroke("cat", CAT), "image_rotation": 90}], "a rotated image"),
        ([stroke("cat", CAT), stroke("cat", CAT.T)], "an image of two sizes"),
        ([stroke("cat", CAT) | {"original_height": "12"}], "an image of 17×12 pixels"),
        ([stroke("cat", CAT) | {"value": {"rle": [1] * 40, "brushlabels": ["cat"]}}], "size"),
        ([stroke("cat", CAT) | {"value": {"rle": [999], "brushlabels": ["cat"]}}], "is damaged"),
        ([stroke(["cat"], CAT)], "TypeError"),
        ([5], "AttributeError"),
        (5, "TypeError"),
        (None, "TypeError"),
    ],
)
def test_a_damaged_task_leaves_out_its_image_alone(results, reason, tmp_path):
    damaged = task("a.jpg")
    damaged["annotations"][0]["result"] = results
    path = write(tmp_path / "a.json", [damaged, task("b.jpg", stroke("dog", DOG))])
    np.testing.assert_array_equal(opened(path).find("b").labels(SIZE), DOG * 2)
    assert reason in problem_of(path)


def test_a_brush_that_ends_early_is_named(tmp_path):
    cut = stroke("cat", CAT)
    cut["value"]["rle"] = cut["value"]["rle"][:-3]
    path = write(tmp_path / "a.json", [task("a.jpg", cut)])
    assert "run lengths that end too early" in problem_of(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "RecursionError"),
        (b'{"shapes": [', "JSONDecodeError"),
        (b"\xff\xfe", "cannot be read"),
        (b"", "JSONDecodeError"),
        (b'{"shapes": 5}', "TypeError"),
        (json.dumps(labelme({"label": "cat", "points": [[1, 2]]})).encode(), ""),
        (json.dumps(labelme(labelme_mask("cat", CAT) | {"mask": "no PNG"})).encode(), "is damaged"),
        (json.dumps(labelme(labelme_mask("cat", CAT) | {"mask": BOMB})).encode(), "is damaged"),
        (
            json.dumps(labelme(labelme_mask("cat", CAT) | {"points": [[9, 9]]})).encode(),
            "a mask that leaves the image",
        ),
        (
            json.dumps(labelme(labelme_mask("cat", CAT) | {"points": [[1e400, 9]]})).encode(),
            "is damaged",
        ),
    ],
)
def test_a_damaged_file_of_labelme_leaves_out_its_image_alone(content, reason, tmp_path):
    write(tmp_path / "b.json", labelme(labelme_mask("dog", DOG)))
    write(tmp_path / "a.json", 5)
    (tmp_path / "a.json").write_bytes(content)
    np.testing.assert_array_equal(opened(tmp_path).find("b").labels(SIZE), DOG * 2)
    if reason:
        assert reason in problem_of(tmp_path)
    else:
        [note] = opened(tmp_path).notes
        assert "has 1 shapes that cover nothing, such as polygons of two corners" in note
        assert "the first at image a" in note


def test_entries_that_are_of_no_image_or_of_one_twice_are_named(tmp_path):
    content = coco(
        [(name, [instance("cat", CAT)]) for name in ("a.jpg", "a.png", "b.jpg", "c.jpg")]
    )
    content["annotations"].append(instance("dog", DOG, image_id=5))
    content["annotations"].append(instance("dog", DOG) | {"image_id": None})
    content["annotations"].append(
        {"image_id": 102, "category_id": 7, "segmentation": [[1, 1, 2, 2]]}
    )
    content["images"].append({"id": 103, "file_name": "d.jpg"})
    content["images"].append({"id": 104, "file_name": 5})
    path = write(tmp_path / "a.json", content)
    assert "has two entries of it" in problem_of(path)
    for image_id in ("c", "d"):
        assert "has two images of its id" in problem_of(path, image_id)
    np.testing.assert_array_equal(opened(path).find("b").labels(SIZE), CAT)
    notes = " ".join(opened(path).notes)
    for what in (
        "1 shapes that cover nothing, such as polygons of two corners, the first at byte",
        "1 annotations that are not COCO's, the first at byte",
        "1 images that are not COCO's, the first at AttributeError",
        "1 images with annotations that it does not list, the first at id 5",
    ):
        assert f"a.json has {what}" in notes


def test_names_lead_nowhere_else(tmp_path):
    names = ["../a.jpg", "/etc/a.jpg", "a\nb.jpg", "\ud800.jpg", "", ".jpg", "x\\y.jpg", "./z.jpg"]
    path = write(tmp_path / "a.json", coco([(name, [instance("cat", CAT)]) for name in names]))
    found = opened(path)
    assert isinstance(found, Drawings)
    for image_id in ("a", "etc/a", "b"):
        with pytest.raises(NoEntry):
            found.find(image_id)
    assert found.find("x/y").scores and found.find("z").scores
    tasks = [task(name, stroke("cat", CAT)) for name in [*names, "http://[", "?d=", "data:,"]]
    found = opened(write(tmp_path / "b.json", tasks))
    assert [note for note in found.notes if "tasks that are not Label Studio's" in note]
    assert all(note.isprintable() for note in found.notes)


def test_ids_may_be_text_and_keys_may_repeat(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT)])])
    content["annotations"][0] |= {"image_id": "100", "category_id": "7"}
    path = write(tmp_path / "a.json", content)
    np.testing.assert_array_equal(opened(path).find("a").labels(SIZE), CAT)
    more = json.dumps(coco([("b.jpg", [])])["images"] + [{"id": 7, "file_name": "c.jpg"}])
    path.write_text(path.read_text()[:-1] + f', "images": {more}}}')
    assert "has two images of its id" in problem_of(path)
    assert opened(path).find("c").labels(SIZE).max() == 0


ODD = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**40, "", "x", "\ud800", [], {}]
ODD += [[[]], {"size": 5}, {"rle": []}, "9" * 500]


def mutated(value, rng: random.Random):
    """Returns a value in which one part, at any depth, is another, is missing or is there twice."""
    value = json.loads(json.dumps(value))
    node = value
    while True:
        key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
        inner = node[key]
        if not inner or not isinstance(inner, dict | list) or rng.random() < 0.25:
            break
        node = inner
    change = rng.random()
    if change < 0.15:
        del node[key]
    elif change < 0.3 and isinstance(node, list):
        node.append(inner)
    else:
        node[key] = rng.choice(ODD)
    return value


@pytest.mark.parametrize(
    ("form", "count"),
    [
        *((form, 250) for form in ("coco", "results", "tasks", "labelme")),
        *(
            pytest.param(form, 2000, marks=pytest.mark.large)
            for form in ("coco", "results", "tasks", "labelme")
        ),
    ],
)
def test_nothing_but_sentences_leaves_whatever_a_file_holds(form, count, tmp_path):
    rng, path = random.Random(form), tmp_path / form / "a.json"
    polygon = {"category_id": 8, "segmentation": [[x for xy in TRIANGLE for x in xy]]}
    base = coco([("a.jpg", [instance("cat", CAT, score=0.5), polygon]), ("b.jpg", [])])
    if form == "results":
        results = base.pop("annotations")
        write(path.with_name("images.json"), base)
        base = results
    elif form == "tasks":
        value = {"points": TRIANGLE, "polygonlabels": ["dog"]}
        sizes = {"original_height": SIZE[0], "original_width": SIZE[1]}
        more = {"type": "polygonlabels", "value": value, "score": 0.3, **sizes}
        base = [task("/data/upload/1/0a1b2c3d-a.jpg", stroke("cat", CAT), more, created_at="x")]
    elif form == "labelme":
        shapes = [
            {"label": "dog", "points": points, "shape_type": kind}
            for kind, points in {"polygon": TRIANGLE, "circle": TRIANGLE[:2]}.items()
        ]
        base = labelme(labelme_mask("cat", CAT), *shapes)
        path = path.parent
        write(path / "b.json", labelme())
    used = 0
    for _ in range(count):
        content = mutated(base, rng)
        if rng.random() < 0.3:
            content = mutated(content, rng) if content else content
        write(path / "a.json" if form == "labelme" else path, content)
        try:
            annotations = opened(path)
            assert all(note.isprintable() for note in annotations.notes)
            found = annotations.find("a")
            _ = found.content, found.size, found.scores
            labels = [found.labels(SIZE), AnnotatedMask(tmp_path / "a.png", found, 10**6).read()]
            assert all(set(np.unique(each)) <= {0, 1, 2, 3, 255} for each in labels)
            used += 1
        except (UserError, ImageError) as error:
            assert str(error).isprintable() and len(str(error)) < 900
    assert count / 10 < used < count


# The index of a large file


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, its cache, and how often files were read."""
    monkeypatch.setattr(annotation_index, "_LARGE", 10)
    path = write(tmp_path / "a.json", coco([("a.jpg", [instance("cat", CAT)]), ("b.jpg", [])]))
    reads, read = [], annotation_index._read_file
    monkeypatch.setattr(annotation_index, "_read_file", lambda p: (reads.append(p), read(p))[1])
    return path, tmp_path / "cache", reads


def test_a_large_file_is_read_once(large):
    path, cache, reads = large
    first = opened(path, cache)
    kept = opened(path, cache)
    assert len(reads) == 1 and first.notes == kept.notes
    for image_id in "ab":
        assert kept.find(image_id).row == first.find(image_id).row
    np.testing.assert_array_equal(kept.find("a").labels(SIZE), CAT)
    os.utime(path, (time.time() + 9,) * 2)
    np.testing.assert_array_equal(opened(path, cache).find("a").labels(SIZE), CAT)
    assert len(reads) == 1, "the same content, at another time"

    write(path, coco([("a.jpg", [instance("dog", CAT)]), ("b.jpg", [])]))
    assert opened(path, cache).find("a").scores == {1: 1.0} and len(reads) == 2
    assert len([*cache.iterdir()]) == 1, "an old index of the same path is replaced"
    assert opened(path).find("a").scores == {1: 1.0} and len(reads) == 3


def test_results_depend_on_the_images_beside_them(large):
    path, cache, reads = large
    content = coco([("a.jpg", [instance("cat", CAT)])])
    write(path, content.pop("annotations"))
    write(path.with_name("images.json"), content)
    assert opened(path, cache).find("a").scores == {0: 1.0}
    content["images"][0]["file_name"] = "c.jpg"
    write(path.with_name("images.json"), content)
    assert opened(path, cache).find("c").scores == {0: 1.0} and len(reads) == 2


def test_a_damaged_index_is_read_again(large):
    path, cache, reads = large
    opened(path, cache)
    [kept] = cache.iterdir()
    content = kept.read_bytes()
    for damaged in (b"", content[:40], content[:-1], content.replace(b"17", b"18", 1), b"5" * 99):
        kept.write_bytes(damaged)
        before = len(reads)
        assert opened(path, cache).find("a").size == SIZE
        assert len(reads) == before + 1 and kept.read_bytes() == content


def test_a_file_that_changes_while_it_is_read_is_not_indexed(large, monkeypatch):
    path, cache, _ = large
    read = annotation_index._read_file

    def change(given):
        index = read(given)
        given.write_text(given.read_text() + " ")
        return index

    monkeypatch.setattr(annotation_index, "_read_file", change)
    with pytest.raises(UserError, match="changed while it was read: run the command again"):
        opened(path, cache)
    assert not cache.exists()


def test_a_pipe_in_place_of_a_mask_is_not_waited_for(tmp_path):
    (tmp_path / "pngs").mkdir()
    os.mkfifo(tmp_path / "pngs" / "a.png")
    found = opened(tmp_path / "pngs").find("a")
    assert AnnotatedMask(tmp_path / "kept.png", found).file() == tmp_path / "pngs" / "a.png"
    with pytest.raises(ImageError, match="is not a file but a folder, a pipe"):
        found.labels(SIZE)
    with pytest.raises(OSError, match="it is not a file"):
        _ = found.content
