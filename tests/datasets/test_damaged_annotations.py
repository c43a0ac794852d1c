"""Annotations that cannot be used are named, and leave out their own image alone."""

from __future__ import annotations

import base64
import json
import os
import random

import numpy as np
import pytest

from pipeline.datasets.annotations import Drawings, open_annotations
from pipeline.datasets.ground_truth import AnnotatedMask
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.images import encode_png
from tests.datasets.annotated import (
    CAT,
    DOG,
    SIZE,
    TRIANGLE,
    altered,
    coco,
    instance,
    labelme,
    labelme_mask,
    opened,
    reading,
    stroke,
    task,
    write,
)


def refusal(path, **settings) -> str:
    with pytest.raises(UserError) as error:
        opened(path, **settings)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    return str(error.value)


def test_files_of_no_form_are_refused(tmp_path):
    path = tmp_path / "a.json"
    wrong = [[], {}, {"images": []}, [5], [{"label": 5}], {"shapes": []}, [[]], {"images": [[]]}]
    for content in [*wrong, [{"a": float("nan")}]]:
        assert "holds neither images with COCO's" in refusal(write(path, content)), content
    listed = coco([("a.jpg", [])])
    for without in ({**listed, "annotations": None}, {"images": listed["images"]}):
        assert "has no list of annotations" in refusal(write(path, without))
    for content in (b"", b"[" * 10**5, b'{"images": [', b"\xff\xfe"):
        path.write_bytes(content)
        assert "is not readable JSON (" in refusal(path)
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
        return open_annotations(str(path), "masks.path", reading(), split, several=True)

    assert of("train").find("train") and of("val").find("val") and of("test").find("a")
    with pytest.raises(NoEntry):
        of("train").find("val")
    for path in (tmp_path, tmp_path / "val.json"):
        with pytest.raises(UserError, match="neither other/ nor other.json"):
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


RUNS = {"size": [*SIZE], "counts": [SIZE[0] * SIZE[1]]}
CUT = stroke("cat", CAT)
del CUT["value"]["rle"][-3:]
NO_POLYGONS = ("abc", [RUNS], [[[0, 0], [9, 0], [9, 9]]], [[0, 0, 9, 0, 9, 9], RUNS])


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
        *(({"segmentation": shape}, "not a list of polygons") for shape in NO_POLYGONS),
        ({"segmentation": [[0, 0, 5, 0, 5, 5, 5]]}, "an odd number of coordinates"),
    ],
)
def test_a_damaged_annotation_leaves_out_its_image_alone(change, reason, tmp_path):
    images = [("a.jpg", [instance("cat", CAT) | change]), ("b.jpg", [instance("dog", DOG)])]
    path = write(tmp_path / "a.json", coco(images))
    np.testing.assert_array_equal(opened(path).find("b").labels(SIZE), DOG * 2)
    pytest.raises(ImageError, opened(path).find("a").labels, SIZE).match(reason)
    assert problem_of(path) and not opened(path).notes


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([CUT], "run lengths that end too early"),
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "RecursionError"),
        (b'{"shapes": [', "JSONDecodeError"),
        (b"\xff\xfe", "JSONDecodeError"),
        (b"", "JSONDecodeError"),
        (b'{"shapes": 5}', "TypeError"),
        (json.dumps(labelme({"label": "cat", "points": [[1, 2]]})).encode(), ""),
        (
            json.dumps(labelme(labelme_mask("cat", CAT) | {"mask": "bm8gUE5H"})).encode(),
            "not a PNG",
        ),
        (json.dumps(labelme(labelme_mask("cat", CAT) | {"mask": BOMB})).encode(), "is damaged"),
        (b'{"shapes": [{"label": "cat", "shape_type": "mask"}]}', "that cannot be read (KeyError"),
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
        "1 shapes that cover nothing, such as polygons of two corners, the first at image b",
        "1 annotations that are not COCO's, the first at annotation 6",
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


def test_ids_may_be_text(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT)])])
    content["annotations"][0] |= {"image_id": "100", "category_id": "7"}
    path = write(tmp_path / "a.json", content)
    np.testing.assert_array_equal(opened(path).find("a").labels(SIZE), CAT)


def test_a_key_that_stands_twice_hides_nothing(tmp_path):
    path = write(tmp_path / "a.json", coco([("a.jpg", [instance("cat", CAT)])]))
    path.write_text(path.read_text()[:-1] + ', "images": []}')
    assert "an object has the key images twice" in refusal(path)
    write(tmp_path / "labelme" / "b.json", labelme(labelme_mask("dog", DOG)))
    text = json.dumps(labelme(labelme_mask("cat", CAT)))
    (tmp_path / "labelme" / "a.json").write_text(text[:-1] + ', "shapes": []}')
    assert "the key shapes twice" in problem_of(tmp_path / "labelme")
    assert opened(tmp_path / "labelme").find("b").scores == {1: 1.0}


def test_large_files_are_refused_before_they_are_read(tmp_path):
    path = write(tmp_path / "a.json", coco([("a.jpg", [])]))
    os.truncate(path, 10**9 + 1)  # of zeros, which take no place on the disk
    assert "has 1,000,000,001 bytes, and at most 1,000,000,000 are read" in refusal(path)
    write(tmp_path / "labelme" / "b.json", labelme())
    os.truncate(write(tmp_path / "labelme" / "a.json", labelme()), 1 << 27)
    assert "and at most 67,108,864 are read" in problem_of(tmp_path / "labelme")
    assert not opened(tmp_path / "labelme").find("b").labels(SIZE).any()


@pytest.mark.parametrize(
    ("form", "count"),
    [
        *((form, 250) for form in ("coco", "results", "tasks", "labelme")),
        *(
            pytest.param(form, 750, marks=pytest.mark.large)
            for form in ("coco", "results", "tasks", "labelme")
        ),
    ],
)
def test_nothing_but_sentences_leaves_whatever_a_file_holds(form, count, tmp_path):
    rng, path = random.Random(form), tmp_path / "a.json"
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
        text = altered(base, rng)
        if rng.random() < 0.3 and (content := json.loads(text)):
            text = altered(content, rng)
        (path / "a.json" if form == "labelme" else path).write_text(text)
        try:
            annotations = opened(path)
            assert all(note.isprintable() for note in annotations.notes)
            found = annotations.find("a")
            _ = found.content, found.size, found.scores
            labels = [found.labels(SIZE), AnnotatedMask("a", found, 10**6).read()]
            assert all(set(np.unique(each)) <= {0, 1, 2, 3, 255} for each in labels)
            used += 1
        except (UserError, ImageError) as error:
            assert str(error).isprintable() and len(str(error)) < 900
    assert count / 15 < used < count


def test_a_pipe_in_place_of_a_mask_is_not_waited_for(tmp_path):
    (tmp_path / "pngs").mkdir()
    os.mkfifo(tmp_path / "pngs" / "a.png")
    found = opened(tmp_path / "pngs").find("a")
    with pytest.raises(ImageError, match="is not a file but a folder, a pipe"):
        found.labels(SIZE)
    with pytest.raises(OSError, match="it is not a file"):
        _ = found.content
