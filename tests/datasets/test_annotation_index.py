"""The index of a large file of annotations: the file is read once, and again if it changed."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from pipeline.datasets import annotation_index
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint
from tests.datasets.annotated import (
    CAT,
    SIZE,
    coco,
    instance,
    opened,
    write,
)


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


def test_an_index_of_another_version_is_read_again(large, monkeypatch):
    path, cache, reads = large
    opened(path, cache)
    [kept] = cache.iterdir()
    version, *content = json.loads(kept.read_bytes()[16:])
    for number, older in enumerate(([version - 1, *content], [[2, "f00"], {"other": "index"}]), 2):
        body = json.dumps(older)
        kept.write_text(fingerprint(body.encode()) + body)
        assert opened(path, cache).find("a").size == SIZE and len(reads) == number


def test_a_file_that_has_not_changed_for_a_while_is_not_looked_into(large, monkeypatch):
    path, cache, reads = large
    os.utime(path, (time.time() - 9,) * 2)
    opened(path, cache)
    found = []
    whole = annotation_index.fingerprint_image
    monkeypatch.setattr(
        annotation_index, "fingerprint_image", lambda p: (found.append(p), whole(p))[1]
    )
    assert opened(path, cache).find("a").size == SIZE and not found
    os.utime(path, (time.time() + 9,) * 2)  # as if it had been written after the index
    assert opened(path, cache).find("a").size == SIZE and found and len(reads) == 1


def test_without_a_place_for_its_index_a_file_is_read(large):
    path, cache, reads = large
    cache.write_text("a file in the place of the folder")
    for count in (1, 2):
        assert opened(path, cache).find("a").size == SIZE and len(reads) == count


def test_ids_of_images_and_categories_are_no_content(tmp_path):
    content = coco([("a.jpg", [instance("cat", CAT), instance("dog", CAT)]), ("b.jpg", [])])
    first = opened(write(tmp_path / "a.json", content)).find("a").content
    for each in (*content["categories"], *content["images"]):
        each["id"] = 900 - each["id"]
    for each in content["annotations"]:
        each["category_id"], each["image_id"] = 900 - each["category_id"], 900 - each["image_id"]
    content["categories"].reverse()
    changed = opened(write(tmp_path / "b.json", content)).find("a")
    assert changed.content == first and changed.scores == {0: 1.0, 1: 1.0}
    for each in content["annotations"]:
        each["category_id"] = content["annotations"][0]["category_id"]
    assert opened(write(tmp_path / "b.json", content)).find("a").content != first


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
