"""Class names as people give them."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.vocabulary import build_vocabulary, voc_palette


def test_a_background_that_is_a_class_leaves_the_backgrounds():
    vocabulary = build_vocabulary({"classes": ["Road", "cat"], "backgrounds": ["road", "sky"]})
    assert vocabulary.backgrounds == ("sky",)
    assert vocabulary.tag_names == vocabulary.cam_names == ("Road", "cat")


def test_names_come_from_a_file_too(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\n\r\ntraffic light\r\n")
    assert build_vocabulary({"classes": str(path)}).classes == ("cat", "traffic light")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "dataset.classes is missing"),
        ("/no/such/file.txt", "is no file"),
        ([], "holds no name"),
        (["cat", " "], "an empty one"),
        (["cat", "dog", "cat"], "names cat twice"),
        ([f"c{i}" for i in range(255)], "room for 254"),
    ],
)
def test_unusable_names_are_answered_in_one_sentence(classes, message):
    with pytest.raises(UserError, match=message):
        build_vocabulary({"classes": classes})


def test_other_names_have_to_fit():
    with pytest.raises(UserError, match=r"dataset.cam_names holds 1 names for 2 classes"):
        build_vocabulary({"classes": ["a", "b"], "cam_names": ["a"]})


def test_palette_is_the_devkits():
    assert voc_palette(21)[1:4] == [(128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert voc_palette(21)[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256
