"""Annotations of other programs become labels, to the pixel."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.datasets.ground_truth import AnnotatedMask
from pipeline.datasets.instances import Instance, draw
from pipeline.engine.sample import find_file
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.images import encode_png
from tests.datasets.annotated import (
    CAT,
    CLASSES,
    DOG,
    EXPECTED,
    SIZE,
    TRIANGLE,
    boxes,
    coco,
    instance,
    labelme,
    labelme_mask,
    opened,
    png_text,
    reading,
    run_lengths,
    stroke,
    task,
    write,
)

NFC, NFD = "caf\u00e9", "cafe\u0301"


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
    picture = np.uint8(np.stack([CAT] * 3 + [np.ones(SIZE)], -1) * 255)  # opaque all over
    data = png_text(picture)
    write(path, labelme({"label": "cat", "shape_type": "mask", "points": [[0, 0]], "mask": data}))
    np.testing.assert_array_equal(opened(tmp_path).find("a").labels(SIZE), CAT)
    assert not drawn("linestrip", [[1, 1], [9, 9]]).any() and not drawn("point", [[1, 1]]).any()
    with pytest.raises(ImageError, match="a.json .* type cloud"):
        drawn("cloud", [[1, 1], [9, 9]])


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
    with pytest.raises(UserError, match="masks.join counts rider"):
        reading(join={"dog": "rider", "cat": "rider"})
    with pytest.raises(UserError, match=r"masks.join: bird is not a class"):
        reading(join={"bird": "rider"})
    with pytest.raises(UserError, match="masks.join=rider does not join"):
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
        lambda c: (
            [each.update(id=90 - each["id"]) for each in c["categories"]]
            + [a.update(category_id=90 - a["category_id"]) for a in c["annotations"]]
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


def test_what_makes_an_entry_unusable_is_part_of_its_content(tmp_path):
    base = coco([("a.jpg", [instance("cat", CAT)]), ("b.jpg", [])])
    changes = [
        lambda c: None,
        lambda c: c["images"].append(c["images"][0] | {"id": 9}),
        lambda c: c["images"].append(c["images"][0] | {"file_name": "c.jpg"}),
        lambda c: c["annotations"].append(c["annotations"][0] | {"score": 2}),
        lambda c: c["annotations"].append(c["annotations"][0] | {"category_id": 99}),
    ]
    contents = []
    for change in changes:
        content = json.loads(json.dumps(base))
        change(content)
        found = opened(write(tmp_path / "a.json", content))
        contents.append(found.find("a").content)
        assert not found.find("b").row.problem
    tasks = [task("x/a.jpg", stroke("cat", CAT)), task("y/a.jpg", stroke("cat", CAT))]
    for given in (tasks[:1], tasks):
        contents.append(opened(write(tmp_path / "b.json", given), known={"a"}).find("a").content)
    assert len({*contents}) == len(contents)


def test_masks_of_another_size_and_without_a_size_are_named(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT)])])
    found = opened(write(tmp_path / "a.json", content)).find("a")
    with pytest.raises(ImageError, match="a.json is of 17×12 .* 12×17"):
        found.labels((17, 12))
    del content["images"][0]["height"], content["images"][0]["width"]
    found = opened(write(tmp_path / "a.json", content)).find("a")
    np.testing.assert_array_equal(found.labels(SIZE), CAT)
    with pytest.raises(ImageError, match="gives its image no height and width"):
        found.labels(None)


def test_ground_truth_of_too_many_pixels_is_refused_before_it_is_drawn(tmp_path):
    path = write(tmp_path / "a.json", coco([("a.jpg", [instance("cat", CAT)])]))
    mask = AnnotatedMask("a", opened(path).find("a"), max_pixels=200)
    wanted = "image a: its mask has more than dataset.max_pixels=200 pixels"
    with pytest.raises(UserError, match=wanted):
        mask.read()
    np.testing.assert_array_equal(replace(mask, max_pixels=None).read(), CAT)
    joined = opened(path, join={"dog": "hound"}).find("a")
    assert replace(mask, annotation=joined).contents != mask.contents


@pytest.mark.parametrize(("own", "theirs"), [(NFC, NFD), (NFD, NFC)], ids=["nfc", "nfd"])
def test_a_name_may_have_another_unicode_normalisation_in_a_file(own, theirs, tmp_path):
    write(tmp_path / "coco.json", coco([(f"{theirs}.jpg", [instance("cat", CAT)])]))
    write(tmp_path / "tasks.json", [task(f"upload/{theirs}.jpg", stroke("cat", CAT))])
    (tmp_path / "pngs").mkdir()
    (tmp_path / "pngs" / f"{theirs}.png").write_bytes(encode_png(CAT.astype(np.uint8)))
    for name in ("coco.json", "tasks.json", "pngs"):
        found = opened(tmp_path / name, known=[own]).find(own)
        np.testing.assert_array_equal(found.labels(SIZE), CAT)
    assert find_file(tmp_path / "pngs", own, "regions", ".json", ".png").stem == theirs
