"""What of the settings is part of a key, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from pipeline.configuration.settings import Rule, joined, key_facts, plain, setting
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint, fingerprint_cached, fingerprint_file


class Colour(Enum):
    RED = 1


@dataclass
class Inner:
    size: float = 2.0
    threads: int = setting(1, changes="nothing", why="they change no result")


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: tuple = ("a", 1.0, [2.5, Path("b/c")])
    table: dict = field(default_factory=lambda: {"x": 3.0, "y": None})
    colour: Colour = Colour.RED
    flag: bool = True
    word: str = "1.0"


def test_facts_are_the_settings_that_change_a_result_as_json_holds_them():
    expected = {
        "inner": {"size": 2},
        "names": ["a", 1, [2.5, "b/c"]],
        "table": {"x": 3, "y": None},
        "colour": "RED",
        "flag": True,
        "word": "1.0",
    }
    assert key_facts(Outer()) == expected
    assert type(key_facts(Outer())["inner"]["size"]) is int, "1 and 1.0 are one value"
    assert plain(2.5) == 2.5 and plain(True) is True
    del expected["names"], expected["inner"]
    assert key_facts(Outer(), without=("names", "inner")) == expected


def test_groups_of_facts_are_joined_unless_they_share_a_name():
    assert joined({"a": 1}, {}, {"b": 2}) == {"a": 1, "b": 2}
    with pytest.raises(UserError, match="setting b, .*name of another"):
        joined({"a": 1, "b": 1}, {"b": 1})


def test_a_reason_is_given_exactly_for_what_is_not_in_the_key():
    for rule in ({"changes": "nothing"}, {"why": "none"}):
        with pytest.raises(TypeError, match="gives a reason exactly when"):
            Rule(**rule)
    assert Rule(changes="images", why="chosen").allows(0)


def test_bounds_include_what_they_name():
    rule = Rule(at_least=0, at_most=1)
    assert [rule.allows(number) for number in (-0.1, 0, 1, 1.1)] == [False, True, True, False]
    assert [Rule(above=0).allows(number) for number in (0, 0.1)] == [False, True]


def test_fingerprints_have_16_digits_and_stay_the_same(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert fingerprint_file(path) == fingerprint_cached(path) == "d8bb14d833d59559"
    assert len(fingerprint("a", 1)) == 16
    assert fingerprint("a", "b") != fingerprint("ab") != fingerprint(b"ab")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
