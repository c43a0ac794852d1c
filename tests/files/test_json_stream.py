"""Large JSON files are read element by element: the same values as json.loads, and their places."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ImageError, UserError
from pipeline.files import json_stream
from pipeline.files.json_stream import read_element, stream_json
from tests.hostile.examples import SEEDED

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
TOPS = st.lists(VALUES, max_size=5) | st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


def expected(top) -> list[tuple[str, object]]:
    """Returns what the elements of a value are, in their order."""
    if isinstance(top, list):
        return [("", value) for value in top]
    lists = ((k, v if isinstance(v, list) else [v]) for k, v in top.items())
    return [(key, value) for key, values in lists for value in values]


@given(top=TOPS, indent=st.sampled_from([None, 1]), block=st.integers(3, 40), escaped=st.booleans())
@SEEDED
def test_elements_are_those_of_the_file_and_lie_where_they_say(
    top, indent, block, escaped, tmp_path_factory
):
    path = tmp_path_factory.mktemp("json") / "a.json"
    text = json.dumps(top, indent=indent, ensure_ascii=escaped)
    path.write_bytes(b"\xef\xbb\xbf" * (block % 2) + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_BLOCK", block)
        elements = [*stream_json(path, "correct it")]
    assert [(e.key, e.value) for e in elements] == expected(top)
    for element in elements:
        assert read_element(path, element.start, element.length) == element.value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it ends where"),
        (b" \n", "it ends where"),
        (b"5", "'5' at byte 0"),
        (b"[1, 2", "it ends where , or ] is"),
        (b'[{"a": 1}, {"a', "no complete value at byte 11"),
        (b'{"a": [1, 2], "b"}', "'}' at byte 17"),
        (b'{"a": [1, 2]', "it ends"),
        (b"{5: [1]}", "no key before byte 2"),
        (b"[1 2]", "'2' at byte 3"),
        (b"[1,]", "no complete value at byte 3"),
        (b"[1] [2]", "more text follows its end, at byte 4"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'["\xff\xfe"]', "decode"),
        ("[1]".encode("utf-16"), "at byte 0"),
        (b"[" + b"9" * 5000 + b"]", "no complete value"),
    ],
)
def test_what_is_not_json_to_its_end_is_one_sentence(content, reason, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.json is not complete JSON .*{reason}.*: correct it$"):
        list(stream_json(path, "correct it"))


def test_what_comes_before_the_damage_was_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id": 1}, {"id": 2}, oops')
    elements = stream_json(path, "correct it")
    assert [next(elements).value["id"] for _ in range(2)] == [1, 2]
    with pytest.raises(UserError, match="no complete value at byte 34"):
        next(elements)


def test_a_value_that_never_ends_is_given_up_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_MAX_ELEMENT", 1000)
    monkeypatch.setattr(json_stream, "_BLOCK", 10)
    path = tmp_path / "a.json"
    path.write_text('["' + "x" * 100_000)
    shown = []
    with pytest.raises(UserError, match="no complete value at byte 1"):
        list(stream_json(path, "correct it", shown.append))
    assert len(shown) < 10  # blocks grow with the value, up to the limit
    with pytest.raises(ValueError, match="Unterminated"):
        read_element(path)


def test_bytes_that_were_read_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_BLOCK", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*range(1000)]))
    shown = []
    list(stream_json(path, "correct it", shown.append))
    assert shown == sorted(shown) and shown[0] == 0
    assert path.stat().st_size - 200 < shown[-1] < path.stat().st_size


def test_pipes_and_folders_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(ImageError, match="is not a file but"):
            read_element(path)
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        list(stream_json(tmp_path, "correct it"))
    with pytest.raises(UserError, match="cannot be read .No such file"):
        list(stream_json(tmp_path / "none", "correct it"))
