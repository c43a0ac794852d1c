"""Lists of images and classes as spreadsheets and accidents leave them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.lists import read_class_list, read_image_classes
from pipeline.errors import UserError
from tests.datasets.miniatures import load
from tests.hostile.conftest import assert_one_sentence, short
from tests.hostile.examples import SEEDED
from tests.hostile.files import encode, photograph, write

CLASSES = ["cat", "person", "rocket", "cup"]
NAMES = ("a", "b", "two words", "é")


@pytest.fixture(autouse=True)
def _photographs(root):
    for seed, name in enumerate(NAMES):
        write(root, f"{name}.jpg", encode(photograph(seed)))


def write_list(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def read(root, tmp_path):
    """Reads a list as such a run does, and returns id → tags of the images, none for an image list.

    Raises:
        UserError: it cannot be read.
    """

    def read(key: str, name: str, content: bytes | str) -> dict[str, list[int] | None]:
        path = write_list(tmp_path / name, content)
        if key == "tags.path":
            found = read_class_list(path, key, {str(k): k for k in range(len(CLASSES))})
            return {image_id: [*tags] for image_id, tags in found.items()}
        given = {key.removeprefix("dataset."): str(path), "split": "all"}
        samples = load("folder", root, classes=CLASSES, **given).splits["all"]
        return {s.id: None if s.labels is None else [*s.labels] for s in samples}

    return read


def assert_refused(read, *arguments: object, holds: tuple[str, ...]) -> None:
    """Checks that a list is refused in one sentence that a person can read."""
    with pytest.raises(UserError) as refused:
        read(*arguments)
    sentence = str(refused.value)
    assert len(sentence) < 700 and sentence.isprintable()
    assert all(part in sentence for part in holds), sentence


TABLE = "a.jpg,cat\nb.jpg,person,cup\ntwo words.jpg,rocket\né.jpg\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (TABLE, "as it should be"),
        (TABLE + TABLE, "every image twice, with the same classes"),
        (TABLE.replace("cat", " Cat ").replace("cup", '"CUP"'), "classes in other case"),
        ("\n\n" + TABLE + ",,,\n", "blank lines"),
    ],
    ids=short,
)
def test_tables_of_a_spreadsheet_are_read(read, content, what):
    found = read("dataset.labels", "labels.csv", content)
    assert found == {"a": [0], "b": [1, 3], "two words": [2], "é": []}


@pytest.mark.parametrize(
    ("content", "what", "sentence"),
    [
        ("\n\na.jpg,dog\n", "a wrong class", "line 3: dog is not in dataset.classes"),
        ("image,classes\na.jpg,cat\n", "a header", "line 1: classes is not in dataset.classes"),
        ("a.jpg,cat\nb.jpg\na.jpg,cup\n", "two lines that contradict", "line 3: a.jpg has other"),
        ("a.jpg,cat\na,cup\n", "id and file that contradict", "a and a.jpg different classes"),
        ('a.jpg,"cat\nb.jpg,cat\n' + "x\n" * 500, "a quote that is not closed", r"cat\nb.jpg"),
        ('"a.jpg,cat\n' + "x" * 200_000, "a cell without end", "is not CSV (field larger"),
        ("", "empty", "names none of the images of split all"),
        ("a.jpg,\x1b[31mcat\n", "control characters", r"\x1b[31mcat is not in dataset.classes"),
    ],
    ids=short,
)
def test_tables_that_cannot_be_read_are_refused(read, content, what, sentence):
    assert_refused(read, "dataset.labels", "labels.csv", content, holds=("labels", sentence))


LIST = "a 0\nb 1 3\ntwo%20words 2\né\n"


@pytest.mark.parametrize("key", ["dataset.labels", "tags.path"])
@pytest.mark.parametrize(
    ("content", "what", "sentence"),
    [
        (LIST, "as it should be", None),
        (LIST + LIST + "b 3 1 1\n", "every image twice, with the same classes", None),
        ("a 4\n", "a wrong class", "line 1: 4 is not a class: give numbers from 0 to 3"),
        ("a cat\n", "a name for a class", "line 1: cat is not a class"),
        (LIST + "a 1\n", "two lines that contradict", "line 5: a has other classes than in line 1"),
    ],
    ids=short,
)
def test_tagclips_lists_are_read_or_refused(read, key, content, what, sentence):
    if sentence is None:
        wanted = {"a": [0], "b": [1, 3], "two words": [2], "é": []}
        assert read(key, "list.txt", content) == wanted
    else:
        assert_refused(read, key, "list.txt", content, holds=("list.txt", sentence))


@pytest.mark.parametrize(
    ("content", "what", "sentence"),
    [
        ("a\nb.jpg\n", "ids and files", None),
        ("a 3\nb 1\na 2\nb.jpg\n", "images twice", None),
        ("a\nx\ny\n", "images that are not there", "names x and 1 more, which split all does not"),
        ("", "empty", "is empty: give a list with one image per line"),
        ("\x1b[31m\n", "control characters", r"names \x1b[31m, which split all does not have"),
    ],
    ids=short,
)
def test_lists_of_images_are_read_or_refused(read, content, what, sentence):
    if sentence is None:
        assert read("dataset.image_list", "images.txt", content).keys() == {"a", "b"}
    else:
        holds = ("images.txt", sentence)
        assert_refused(read, "dataset.image_list", "images.txt", content, holds=holds)


def test_a_list_of_images_may_have_plain_white_space(read):
    found = read("dataset.image_list", "images.txt", "two words.jpg\ntwo%20words\n")
    assert found.keys() == {"two words"}


@pytest.mark.parametrize(
    ("key", "nowhere"),
    [
        ("dataset.labels", "x" * 5000),
        ("dataset.image_list", "~nobody-of-this-name/x.csv"),
        ("tags.path", "~nobody-of-this-name/x.csv"),
    ],
    ids=short,
)
def test_what_is_no_file_is_refused(run_on, tmp_path, key, nowhere):
    os.mkfifo(tmp_path / "pipe.csv")
    more = ["tags=file"] if key == "tags.path" else ["tags=ground_truth"]
    for place in (tmp_path / "pipe.csv", tmp_path, "/no/such", nowhere):
        finished = run_on("stage=tags", "dataset.split=all", *more, f"{key}='{place}'")
        if key == "tags.path" and place == tmp_path:  # which may hold files of labelme's
            assert_one_sentence(finished, f"has no entry in {tmp_path}")
            continue
        assert_one_sentence(finished, f"{key}={str(place)[:9]}")
        assert place == nowhere or "is not a file: give a list" in finished.errors


@pytest.mark.parametrize("name", ["x.csv", "x.txt"])
def test_any_bytes_are_labels_or_a_sentence(name, tmp_path):
    path = tmp_path / name
    words = st.sampled_from(
        ["a", "b.jpg", "cat", "cup", "0", "3", ",", " ", '"', "\n", "\r", "%41"]
    )

    @SEEDED
    @given(st.binary(max_size=60) | st.lists(words, max_size=14).map(lambda w: "".join(w).encode()))
    def read_them(content):
        path.write_bytes(content)
        try:
            labels = read_image_classes(path, CLASSES)
        except UserError as error:
            assert len(str(error)) < 500 and str(error).isprintable()
        else:
            assert all(set(found) <= {0, 1, 2, 3} for found in labels.values())

    read_them()
