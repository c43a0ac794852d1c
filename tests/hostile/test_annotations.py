"""Annotation files of VOC and ADE20K, damaged by a download or an editor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.voc import read_objects
from pipeline.errors import UserError
from tests.datasets.miniatures import build_ade20k, build_voc2012, load
from tests.hostile.examples import SEEDED


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
        with pytest.raises(UserError, match=f"its mask cannot be used: {path} ") as error:
            sample.mask.read()
        assert str(error.value).isprintable()
    path.write_bytes(whole[:-8])  # without the mark of the end, but with every pixel
    assert (sample.mask.read() == labels).all()
