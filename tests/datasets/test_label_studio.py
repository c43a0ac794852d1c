"""Label Studio's exports: which annotation counts, of which image, and what of it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.datasets.instances import label_studio_image
from pipeline.errors import ImageError, NoEntry
from tests.datasets.annotated import CAT, DOG, SIZE, opened, png_text, stroke, task, write


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


CHOICE = {"type": "choices", "value": {"choices": ["dog", "cat"]}}


def test_choices_are_tags_and_no_mask(tmp_path):
    both = task("b.jpg", CHOICE, stroke("cat", CAT))
    path = write(tmp_path / "tasks.json", [task("a.jpg", CHOICE), both, task("c.jpg")])
    assert opened(path, holds_tags=True).find("a").scores == {0: 1.0, 1: 1.0}
    found = opened(path)
    np.testing.assert_array_equal(found.find("b").labels(SIZE), CAT)
    assert not found.find("c").labels(SIZE).any(), "a person says that nothing is there"
    with pytest.raises(NoEntry, match="no mask in .* only classes"):
        found.find("a")
    assert found.notes == ["tasks.json has no mask for 1 of its images, the first a (only classes)"]


def test_regions_without_an_outline_are_tags_and_no_mask(tmp_path):
    box = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["dog"]}}
    point = {"type": "keypointlabels", "value": {"x": 1, "keypointlabels": ["dog"]}}
    said = [{"type": "relation"}, {"type": "textarea", "value": {"text": ["x"]}}, point]
    tasks = [task("a.jpg", box, stroke("cat", CAT)), task("b.jpg", stroke("cat", CAT), *said)]
    path = write(tmp_path / "tasks.json", tasks)
    assert opened(path, holds_tags=True).find("a").scores == {0: 1.0, 1: 1.0}
    assert opened(path).find("b").scores == {0: 1.0}
    with pytest.raises(NoEntry, match="without an outline, .* box"):
        opened(path).find("a")


def bitmask(name, pixels, **more) -> dict:
    """Returns a result of Label Studio's bit mask: black pixels on a transparent background."""
    picture = np.uint8(pixels)[..., None] * np.uint8([0, 0, 0, 255])
    data = f"data:image/png;base64,{png_text(picture)}"
    value = {"imageDataURL": data, "bitmasklabels": [name]}
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1]}
    return {"type": "bitmasklabels", "value": value, **sizes, **more}


def test_regions_that_cannot_be_drawn_are_tags_counted_and_no_background(tmp_path):
    vector = {"type": "vectorlabels", "value": {"vertices": [], "vectorlabels": ["dog"]}}
    span = {
        "type": "labels",
        "id": "s",
        "to_name": "text",
        "value": {"start": 0, "labels": ["dog"]},
    }
    remark = stroke("cat", CAT) | {"type": "textarea"}
    # Nothing of these leaves out what can be drawn beside them.
    unlabelled = {"type": "vector", "value": [], "to_name": "film"}
    tasks = [
        task("a.jpg", vector),
        task("b.jpg", vector, stroke("cat", CAT), remark, span, unlabelled),
        task("c.jpg", bitmask("cat", CAT)),
        task("e.jpg", bitmask("cat", CAT[1:])),
    ]
    path = write(tmp_path / "tasks.json", tasks)
    found = opened(path)
    with pytest.raises(NoEntry, match="no mask in .* cannot be"):
        found.find("a")
    for image_id in "bc":
        np.testing.assert_array_equal(found.find(image_id).labels(SIZE), CAT)
    with pytest.raises(ImageError, match="a mask of another size"):
        found.find("e").labels(SIZE)
    first = "tasks.json has 2 regions of the type vectorlabels, which cannot be drawn, the first at"
    left_out = "tasks.json has no mask for 1 of its images, the first a (only regions that"
    second = "tasks.json has 1 regions of the type vector, which cannot be drawn, the first at"
    said = first, second, left_out
    assert [*map(str.startswith, found.notes, said)] == [True, True, True]
    assert found.notes[3].endswith("names that are not classes: vector (1)")
    assert opened(path, holds_tags=True).find("a").scores == {1: 1.0}
    assert opened(path, holds_tags=True).find("b").scores == {0: 1.0, 1: 1.0}


def test_labels_may_be_results_of_their_own(tmp_path):
    brush = stroke("cat", CAT) | {"type": "brush", "id": "x"}
    rle = {"rle": brush["value"]["rle"]}
    labels = {"type": "labels", "id": "x", "value": {**rle, "labels": ["dog"]}}
    tasks = [task("a.jpg", brush | {"value": rle}, labels), task("b.jpg", brush | {"value": rle})]
    tasks.append(task("c.jpg", labels))
    found = opened(write(tmp_path / "tasks.json", tasks))
    np.testing.assert_array_equal(found.find("a").labels(SIZE), CAT * 2)
    np.testing.assert_array_equal(found.find("c").labels(SIZE), CAT * 2)
    with pytest.raises(ImageError, match="a brush without a label"):
        found.find("b").labels(SIZE)


def test_tasks_of_two_images_are_left_out(tmp_path):
    left, right = (stroke("cat", CAT) | {"to_name": name} for name in ("left", "right"))
    tasks = [task("a.jpg", left, right), task("b.jpg", left)]
    tasks[1]["data"]["right"] = "/data/upload/1/c.jpg"
    found = opened(write(tmp_path / "tasks.json", tasks))
    with pytest.raises(ImageError, match="results of two images"):
        found.find("a").labels(SIZE)
    assert "1 tasks that are not Label Studio's" in found.notes[0]


def test_images_of_label_studio_are_found_below_any_folder_if_that_is_clear(tmp_path):
    tasks = [task(f"s3://bucket/{name}.jpg", stroke("cat", CAT)) for name in ("x/a", "y/a", "y/b")]
    tasks.append(task("a.jpg", stroke("dog", DOG)))
    path = write(tmp_path / "tasks.json", tasks)
    found = opened(path, known={"a", "b", "x/a", "y/a"})
    assert found.find("a").scores == {1: 1.0}
    assert found.find("x/a").scores == found.find("b").scores == {0: 1.0}
    path = write(tmp_path / "tasks.json", tasks[:3])
    with pytest.raises(NoEntry):
        opened(path, known={"a", "x/a", "y/a"}).find("a")  # both entries are those of others
    with pytest.raises(ImageError, match="several entries of it, such as /y/a"):
        opened(path).find("a").labels(SIZE)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/1a2b3c4d-20231201-holiday.png", "20231201-holiday"),
        ("/data/upload/3/1a2b3c4d-IMG-20231201-WA0001.jpg", "IMG-20231201-WA0001"),
        ("/data/upload/3/IMG-20231201-WA0001.jpg", "/data/upload/3/IMG-20231201-WA0001"),
        ("upload/1a2b3c4d-a.jpg", "a"),
        ("http://host:8080/data/upload/3/1a2b3c4d-a.jpg", "a"),
        ("/data/local-files/?d=p/upload/20231201-a.jpg", "p/upload/20231201-a"),
        ("s3://bucket/upload/20231201-a.jpg", "/upload/20231201-a"),
        ("myupload/1a2b3c4d-a.jpg", "myupload/1a2b3c4d-a"),
        ("upload/20231201-trip/a.jpg", "upload/20231201-trip/a"),
        ("1a2b3c4d-a.jpg", "1a2b3c4d-a"),
    ],
)
def test_the_prefix_of_an_upload_is_removed_once_and_nowhere_else(address, name):
    found = task(address)
    assert label_studio_image(found) == name
    found["data"]["id"] = name.lstrip("/")
    assert label_studio_image(found) == name.lstrip("/")


def test_the_newest_instant_counts_whatever_its_time_zone(tmp_path):
    dates = {
        "cat": "2026-01-01T23:30:00.5Z",  # the newest
        "dog": "2026-01-02T01:00:00+02:00",
        "traffic light": "2026-01-01T23:30:00.123456Z",
    }
    said = [{"result": [stroke(name, CAT)], "updated_at": date} for name, date in dates.items()]
    about = [task("a.jpg"), task("b.jpg")]
    about[0]["annotations"] = said
    about[1]["annotations"] = [said[0], said[1] | {"updated_at": "yesterday"}]
    found = opened(write(tmp_path / "tasks.json", about))
    assert found.find("a").scores == {0: 1.0}
    assert "1 tasks that are not Label Studio's" in found.notes[0]


def test_addresses_may_be_paths_and_dates_without_fractions(tmp_path):
    new, old = ({"result": [stroke(name, CAT)]} for name in ("cat", "dog"))
    about = task("mine/a#1?.jpg")
    old |= {"updated_at": "2026-01-01T10:00:00Z"}
    about["annotations"] = [new | {"updated_at": "2026-01-01T10:00:00.5Z"}, old]
    found = opened(write(tmp_path / "tasks.json", [about]), known={"a#1?"})
    assert found.find("a#1?").scores == {0: 1.0}
