"""The table of corrected tags: as a report saves it, and as spreadsheets and people spoil it."""

import csv
import io
from collections.abc import Sequence

import pytest

from pipeline.datasets.corrected import Corrections
from pipeline.datasets.corrections import (
    BySplit,
    is_corrections,
    read_corrections,
)
from pipeline.engine.records import describe_legend
from pipeline.errors import UserError
from pipeline.files.text import join_cell, split_cell

CLASSES = ("cat", "a;b", "back\\slash", 'say "cup"', "two\nlines", "x, y")


@pytest.mark.parametrize("names", [(), ("cat",), CLASSES, ("\\;", ";\\", "\\\\;;")])
def test_names_in_a_cell_come_back(names):
    assert split_cell(join_cell(names)) == [*names]


def format_corrections(corrections: BySplit, classes: Sequence[str]) -> str:
    """Returns the text of a table of corrections, as a report writes it."""
    has_splits = {*corrections} != {""}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "split", "classes"] if has_splits else ["id", "classes"])
    for split, images in corrections.items():
        for image_id, labels in images.items():
            names = join_cell(classes[k] for k in labels)
            writer.writerow([image_id, *([split] * has_splits), names])
    return text.getvalue()


@pytest.mark.parametrize("split", ["", "val"])
def test_a_table_comes_back(split, tmp_path):
    images = {"a": (0, 1, 2), 'b,"c"\n': (3, 4, 5), " d ": (), "e/ß": (5,)}
    images |= {"f\rg": (0,), "f\ng": (1,), "f\r\ng": (2,)}
    written = {split: images} if not split else {"train": {"a": (1,)}, split: images}
    path = tmp_path / "corrections.csv"
    path.write_bytes(format_corrections(written, CLASSES).encode())
    assert read_corrections(path, "tags.corrections", CLASSES) == written
    header, *_ = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    assert header == (["id", "split", "classes"] if split else ["id", "classes"])


def test_a_spreadsheet_may_add_a_mark_and_order_the_columns(tmp_path):
    path = tmp_path / "corrections.csv"
    path.write_bytes("\ufeffclasses,id\r\nCAT ; x\\;y,1\r\n\r\n,2\r\n".encode())
    found = read_corrections(path, "tags.corrections", ("cat", "x;y"))
    assert found == {"": {"1": (0, 1), "2": ()}}
    path.write_text('"id","classes"\n')
    assert is_corrections(path), "names may stand in quotes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: its header is id,classes"),
        ("id;classes\na;cat\n", "begins with id;classes: its header is id,classes"),
        ("id,classes,scores\n", "its header is id,classes"),
        ("id,classes\na,cow\n", "line 2: cow is not a class: correct it"),
        ("id,classes\na,cut\n", "line 2: cut is not a class: did you mean cat"),
        ("id,classes\na,cat\n\na,cat\n", "line 4: a stands twice: keep one line"),
        ("id,classes\na\n", "line 2 has 1 cells for 2 columns"),
        ("id,classes\na,cat,cup\n", "line 2 has 3 cells for 2 columns"),
        ("id,classes\na,cat\\\n", "cat\\ ends in \\: escape it as \\\\"),
        ('id,classes\n"a"b,cat\n', "line 2 is not CSV"),
        ('id,classes\n"a,cat\n', "is not CSV"),
        ("id,split,classes\na,,cat\n", "line 2 names no split: give it"),
    ],
)
def test_another_table_is_refused_in_a_sentence(text, message, tmp_path):
    path = tmp_path / "corrections.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_corrections(path, "tags.corrections", ("cat", "dog"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_corrected_tags_take_the_place_of_those_found():
    corrections = Corrections({"a": (1,), "b": ()}, "mine.csv", "2026-11-29 10:20:03")
    assert corrections.apply("a", (0, 2)) == {"tags": [1], "found": [0, 2]}
    assert corrections.apply("b", (0,)) == {"tags": [], "found": [0]}
    assert corrections.apply("c", (0, 2)) == {"tags": [0, 2]}
    [(content, about)] = corrections.legend.items()
    assert corrections.key_facts == {"corrections": content}
    assert describe_legend(about) == "tags of 2 images in mine.csv of 2026-11-29 10:20:03"
    other = Corrections({"b": (), "a": (1,)}, "other.csv")
    assert other.key_facts == corrections.key_facts, "neither name nor order of lines counts"
    assert Corrections({"a": (1,), "b": (0,)}).key_facts != corrections.key_facts
    assert not Corrections() and Corrections().key_facts == Corrections().legend == {}
