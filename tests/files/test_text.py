"""Text files that users write: every reader refuses a file that is not text."""

from __future__ import annotations

import os

import pytest

from pipeline.errors import UserError
from pipeline.files.text import given_path, read_rows, read_text

ODD = {
    "UTF-16": ("café\n".encode("utf-16"), "is not UTF-8 text: save it as such"),
    "UTF-16 without a mark": ("cat\n".encode("utf-16-le"), "holds NUL bytes and is not UTF-8 text"),
    "Latin-1": ("café\n".encode("latin-1"), "is not UTF-8 text: save it as such"),
    "NUL": (b"cat\0\n", "holds NUL bytes"),
    "zeros": (b"\0" * 99, "holds NUL bytes"),
    "a program": (b"\x7fELF\0\0\0", "holds NUL bytes and is not UTF-8 text"),
    "a spreadsheet's own file": (b"PK\x03\x04\x14\0\xff\0" * 40, "is not UTF-8 text: save"),
    "a device": (lambda path: path.symlink_to("/dev/null"), "is not a file: replace it"),
    "a folder": (os.mkdir, "is not a file: replace it"),
    "nothing": (lambda path: None, "is not a file: replace it"),
}
READERS = {
    "text": lambda path: read_text(path, str(path), "replace it"),
    "rows": lambda path: list(read_rows(path, str(path), "replace it")),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("content", "sentence"), ODD.values(), ids=ODD)
def test_what_is_no_text_is_refused(read, content, sentence, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(UserError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path} {sentence}")


def test_texts_may_have_a_mark_and_any_line_end(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9,1\r\n\r\n two \r")
    assert read_text(path, "it", "it") == "café,1\r\n\r\n two \r"
    assert [*read_rows(path, "it", "it")] == [(1, ["café", "1"]), (3, [" two "])]
    path.write_text('a\n"b,1\n')
    with pytest.raises(UserError, match=r"list\.csv, line 2 .*: correct it"):
        [*read_rows(path, "it", "it", strict=True)]


def test_large_files_and_wrong_paths_are_named(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 101)
    with pytest.raises(UserError, match="more than 100 bytes: replace it"):
        read_text(tmp_path / "large", "it", "replace it", 100)
    with pytest.raises(UserError, match=r"(cannot be read|is not a file)\b"):
        read_text(tmp_path / ("x" * 5000), "it", "replace it")
    with pytest.raises(UserError, match="labels=~nobody-of-this-name/x"):
        given_path("~nobody-of-this-name/x", "dataset.labels")
