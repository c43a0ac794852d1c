"""How errors repeat the user's input, and propose names."""

from __future__ import annotations

import pickle

import pytest

from pipeline.errors import ImageError, NotLocal, UserError, check_choice, did_you_mean, shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("list.txt", "list.txt"),
        (3, "3"),
        ("two\nlines\t", r"two\nlines\t"),
        ("/data/" + "photographs/" * 40 + "list.txt", None),
        ("\n" * 5000, None),
    ],
)
def test_it_is_on_one_line_and_not_too_long(given, expected):
    found = shown(given)
    assert found.isprintable() and len(found) <= 161
    if expected is not None:
        assert found == expected


def test_the_end_of_a_long_path_is_kept():
    found = shown("/data/" + "photographs/" * 40 + "list.txt")
    assert found.startswith("/data/photographs/") and found.endswith("graphs/list.txt")
    assert "…" in found


def test_only_what_is_near_is_proposed():
    assert did_you_mean("dearest", ["nearest", "far"]) == "did you mean nearest? "
    assert did_you_mean("zzz", ["nearest", "far"]) == ""


@pytest.mark.parametrize("kind", [UserError, ImageError, NotLocal])
def test_names_cannot_change_the_terminal(kind):
    error = kind("\x1b]0;title\x07 and\ntwo lines of Zoë")
    assert str(error) == r"\x1b]0;title\x07 and\ntwo lines of Zoë"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(UserError) as caught:
        check_choice("there is no class cat", "cat", ["cat\x1b[m", "dog\r"])
    assert "did you mean cat\\x1b[m? choose from cat" in str(caught.value)
    assert str(caught.value).isprintable()
