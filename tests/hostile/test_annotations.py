"""Annotation files of VOC, COCO and ADE20K, damaged by a download or an editor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.voc import read_objects
from pipeline.errors import UserError
from tests.datasets.miniature_coco import build_coco
from tests.datasets.miniatures import build_ade20k, build_voc2012, load
from tests.hostile.examples import SEEDED


@pytest.fixture(scope="module")
def whole_coco(tmp_path_factory) -> Path:
    return build_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def coco_with(whole_coco, tmp_path):
    """Replaces the annotations of COCO's validation images, and reads them."""
    root = tmp_path / "coco"
    shutil.copytree(whole_coco, root)
    path = root / "annotations" / "instances_val2017.json"
    whole = path.read_text()

    def read(content: str) -> list:
        path.write_text(content)
        samples = load("coco2017", root).splits["val"]
        for sample in samples:
            sample.mask.read()
        return samples

    return whole, read


def sentence_of(action, *arguments) -> str:
    """Returns the sentence with which an action is refused."""
    with pytest.raises(UserError) as error:
        action(*arguments)
    assert str(error.value).isprintable()
    return str(error.value)


def test_annotations_of_coco_that_are_cut_are_named(coco_with):
    whole, read = coco_with
    assert len(read(whole)) == 4
    contents = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    contents += ["[]", "{", "null", '{"images": []}', '{"images": ' + "[" * 100_000, "[" * 100_000]
    for content in contents:
        sentence = sentence_of(read, content)
        assert "instances_val2017.json is not an annotation file of COCO: download it" in sentence


def test_annotations_of_coco_that_hold_anything_are_named(coco_with):
    whole, read = coco_with
    changes = [
        lambda c: c["images"][0].update(height=10**9),
        lambda c: c["images"][0].update(width=-1),
        lambda c: c["images"][0].update(width="56"),
        lambda c: c["images"][0].update(file_name=5),
        lambda c: c["images"].append(c["images"][0] | {"id": 10**6}),
        lambda c: c["annotations"][0].update(segmentation=5),
        lambda c: c["annotations"][0].update(segmentation={"counts": [-5, 9], "size": [1, 1]}),
        lambda c: c["annotations"][0].update(segmentation=[["a"] * 8]),
        lambda c: c["annotations"][0].update(segmentation=[{"counts": [9], "size": [3, 3]}]),
        lambda c: c["annotations"][0].update(area="x"),
        lambda c: c.update(images={"a": 1}),
        lambda c: c.update(images=3, annotations=3, categories=3),
        lambda c: c.update(images=[3], annotations=[], categories=[]),
        lambda c: c.update(categories=[5]),
    ]
    for change in changes:
        content = json.loads(whole)
        change(content)
        assert "download" in sentence_of(read, json.dumps(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 50,
        b"<annotation>",
        b"<?xml version='1.0' encoding='nothing'?><annotation/>",
        b"<?xml version='1.0' encoding='utf-7'?><annotation/>",
        "<annotation/>".encode("utf-16")[:-3],
        b"<" * 1000,
    ],
    ids=range(7),
)
def test_annotations_of_voc_that_cannot_be_read_are_named(content, tmp_path):
    path = tmp_path / "x.xml"
    path.write_bytes(content)
    sentence = sentence_of(read_objects, path, {"cat": 0}, False, "PASCAL VOC 2007")
    assert sentence == f"{path} cannot be read: replace it"


def test_annotations_of_voc_of_any_bytes_are_read_or_named(tmp_path):
    whole = (
        b"<annotation><object><name>cat</name><difficult>0</difficult></object>"
        b"<object><name>dog</name></object></annotation>"
    )
    path = tmp_path / "x.xml"

    @SEEDED
    @given(st.integers(0, len(whole)), st.integers(0, len(whole)), st.binary(max_size=6))
    def read(begin, end, noise):
        path.write_bytes(whole[:begin] + noise + whole[end:])
        try:
            labels = read_objects(path, {"cat": 0, "dog": 1}, False, "PASCAL VOC 2007")
        except UserError as error:
            assert "x.xml" in str(error) and len(str(error)) < 600
        else:
            assert set(labels) <= {0, 1}

    read()


def test_lists_of_voc_that_are_no_text_are_named(tmp_path):
    root = build_voc2012(tmp_path)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe\xff")
    dataset = load("voc2012", root)
    assert "val.txt is not UTF-8 text" in sentence_of(lambda: dataset.splits["val"])
    assert len(dataset.splits["train"]) == 2


def test_images_that_voc_lists_twice_are_one(tmp_path):
    root = build_voc2012(tmp_path)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n2007_000033\r\n")
    dataset = load("voc2012", root)
    assert [s.id for s in dataset.splits["val"]] == ["2007_000033"]


def test_a_map_of_ade20k_that_is_cut_is_named(tmp_path):
    root = build_ade20k(tmp_path)
    sample = load("ade20k", root).splits["val"][0]
    path = sample.mask.annotation.path
    whole, labels = path.read_bytes(), sample.mask.read()
    for tenth in range(9):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        assert f"its mask cannot be used: {path} " in sentence_of(sample.mask.read)
    path.write_bytes(whole[:-8])  # without the mark of the end, but with every pixel
    assert (sample.mask.read() == labels).all()
