"""JSON that somebody wrote to harm, or that a disk damaged: dropped, never a traceback."""

from __future__ import annotations

import json
import zlib

import pytest

from pipeline.engine.records import MANIFEST, holds, read_manifest
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.atomic import Complete, fits, parse_object, read_json_lines
from pipeline.files.fingerprints import fingerprint
from pipeline.files.journal import Journal, encode_line
from pipeline.files.lock import HOLDER, FolderLock
from tests.results import open_writer

HOSTILE = [
    "[" * 200_000,
    "[" * 200_000 + "]" * 200_000,
    '{"id":"a","input":' + '{"a":' * 100 + "1" + "}" * 101,
    '{"id":"a","input":"b","images":' + "9" * 5000 + "}",
    '{"id":"a","input":"b","images":' + "9" * 4000 + "}",
    '{"id":["a"],"input":"b","stage":["tags"]}',
    '{"id":"a","input":{},"configuration":[]}',
    "[1]",
    "null",
    '"text"',
    "\ud800".encode("utf-8", "surrogatepass"),
    b"\xff\xfe",
    "",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_is_no_object_of_the_shape(number, tmp_path):
    text = HOSTILE[number]
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / MANIFEST).write_bytes(data)
    assert read_manifest(tmp_path) == {}
    shape = {"id": str, "input": str, "images": int}
    assert parse_object(data, shape, ["id", "input"]) is None
    (tmp_path / "lines").write_bytes(data + b'\n{"id":"whole"}\n')
    assert {"id": "whole"} in read_json_lines(tmp_path / "lines")
    assert all(isinstance(line["id"], str) for line in read_json_lines(tmp_path / "lines"))


def signed(text: str) -> bytes:
    """A line of a journal with a checksum that is right."""
    return text.encode()[:-1] + b',"sum":"%08x"}\n' % zlib.crc32(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"id":["a"],"inputs":{"photograph":"b"}}',
        '{"id":"a","inputs":1}',
        '{"id":"a"}',
        '{"id":"a","inputs":{"photograph":"b"},"tags":["0"]}',
        '{"id":"a","inputs":{"photograph":"b"},"files":["../x"]}',
        '{"id":"a","inputs":{"photograph":"b"},"state":' + "[" * 1000 + "]" * 1000 + "}",
        '{"id":"a","inputs":{"photograph":"b"},"read":' + "9" * 5000 + "}",
        '[{"id":"a"}]',
    ],
)
def test_lines_of_another_shape_are_dropped_and_counted(text, tmp_path, capsys):
    folder = open_writer(tmp_path, "all", "tags", {})
    folder.path.mkdir(parents=True)
    good = encode_line({"id": "b", "inputs": {"photograph": "c"}})
    (folder.path / "entries.jsonl").write_bytes(signed(text) + good + b"torn")
    journal = Journal(folder.path / "entries.jsonl")
    assert [*journal.entries] == ["b"] and journal.damaged == 2
    with folder:
        assert [*folder.results.entries] == ["b"]
    assert "2 damaged lines in" in capsys.readouterr().err
    assert (folder.path / "entries.jsonl").read_bytes() == good


def test_an_entry_reaches_no_file_outside_its_folder(tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "folder" / "in..side").mkdir(parents=True)
    (tmp_path / "folder" / "in..side" / "y").write_bytes(b"x")
    digest = fingerprint(b"x")
    for name in ("../outside", str(tmp_path / "outside"), "in..side/../../outside", "a\0b"):
        assert not holds(tmp_path / "folder", {"files": {name: digest}})
    assert holds(tmp_path / "folder", {"files": {"in..side/y": digest}})


@pytest.mark.parametrize(
    "text", ['{"process": 99999999999}', '{"process": -1}', '["x"]', "[" * 9999]
)
def test_a_holder_of_another_shape_holds_nothing(text, tmp_path):
    (tmp_path / HOLDER).write_text(text)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_status_lists_folders_with_hostile_manifests(tmp_path):
    store = Store(tmp_path)
    for number, text in enumerate(['{"finished": 3}', '{"finished": "2026"}', "[" * 100_000]):
        with open_writer(store, "all", "tags", {"number": number}) as folder:
            (folder.path / MANIFEST).write_text(text)
    assert sorted(len(manifest) for _, manifest in store.folders()) == [0, 0, 1]


def test_shapes():
    assert fits({"a": [1], "b": "x"}, {"a": [int], "b": str}, ["a"])
    assert not fits({"b": "x"}, {"a": [int]}, ["a"]) and not fits({"a": True}, {"a": int})
    assert fits({"a": True}, {"a": bool}) and not fits({"a": 2**63}, {"a": int})
    assert parse_object('{"a": 1}', Complete(a=int)) and not parse_object("{}", Complete(a=int))
    assert json.dumps(parse_object('{"x": [[]]}')) == '{"x": [[]]}'


def test_latest_that_is_a_folder_is_said_before_anything_is_computed(tmp_path):
    folder = open_writer(tmp_path, "all", "tags", {})
    (folder.path.parent / "latest").mkdir(parents=True)
    with pytest.raises(UserError, match="latest is a folder, not a link"), folder:
        pass
    assert not folder.path.exists()
