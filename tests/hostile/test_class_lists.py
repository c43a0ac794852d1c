"""Class names with everything that they must not contain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary, same_name
from pipeline.errors import UserError
from tests.hostile.conftest import short
from tests.hostile.examples import SEEDED, TOO_LONG

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk")
)
"""A YAML file of few lines that expands to billions of words."""

BOMB_OF_NAMES = f"- name: cat\n  names: {{{BOMB.strip().replace(chr(10), ', ')}}}\n"


def refused(**settings) -> str:
    """Returns the sentence with which a vocabulary is refused."""
    with pytest.raises(UserError) as error:
        build_vocabulary(VocabularySettings(**settings))
    sentence = str(error.value)
    assert sentence.isprintable() and len(sentence) < 600
    return sentence


@pytest.mark.parametrize(
    ("classes", "what", "sentence"),
    [
        (None, "nothing", "dataset.classes is missing"),
        (5, "a number", "dataset.classes=5 is not a list"),
        (["cat", "dog", "cat"], "one name twice", "names cat twice: keep one of each"),
        (["cat", "dog", "Cat"], "names that differ in case", "names cat (also as Cat) twice"),
        (["a cat", " a  cat "], "names that differ in white space", "names a cat (also as a  cat)"),
        (["é", "e\u0301"], "a name in NFC and in NFD", "(also as e\u0301) twice"),
        (["x"] * 2000, "2,000 times one name", "holds 2000 names: leave some out"),
        ([f"class {k}" for k in range(2000)], "2,000 names", "masks have room for 254"),
        ([f"c{k // 2}" for k in range(250)], "125 names twice", "c0, c1, c2 and 122 more twice"),
        (["cat", "x" * 10_000], "10,000 characters", "has 10000 characters: give one of at most"),
        (["cat", ""], "an empty name", "an empty one: give every class a name"),
        (["cat", " \t "], "a name of white space", "an empty one: give every class a name"),
        (["cat\ndog"], "a line break in a name", r"the name cat\ndog holds a tab, a line break"),
        (["cat\tdog"], "a tab in a name", r"the name cat\tdog holds a tab"),
        (["cat\u2028dog"], "a line separator in a name", r"the name cat\u2028dog holds a tab"),
        (["c\0t", "\x1b[31m"], "control characters in names", r"the name c\x00t holds a tab"),
        (["caf\udce9"], "half pairs in names", r"the name caf\udce9 holds a tab"),
        (["Background", "cat"], "the background as a class", "names Background, which is label 0"),
        ("x" * 10_000, "a path of 10,000 characters", f"x {TOO_LONG}: give"),
        (
            "~nobody-of-this-name/c.txt",
            "somebody's home",
            "the home folder of an unknown user",
        ),
        ("a\0b", "NUL in a path", "is not a file: give the path of a text file"),
    ],
    ids=short,
)
def test_names_that_cannot_be_are_refused(classes, what, sentence):
    assert sentence in refused(classes=classes)


@pytest.mark.parametrize("key", ["tag_names", "cam_names", "parents"])
def test_other_names_are_no_better(key):
    for given_names, sentence in (
        (5, "is not a list: give one, or null"),
        ("cat", "is not a list: give one, or null"),
        (["cat", "x" * 400], "has 400 characters"),
        (["cat", "a\nb"], "holds a tab, a line break"),
        (["cat", {}], "{} is not a name"),
        (["cat"] * 3, "names for 2 classes"),
    ):
        assert sentence in refused(classes=["cat", "dog"], **{key: given_names})


@pytest.mark.parametrize(
    ("name", "content", "what", "sentence"),
    [
        ("c.txt", b"", "empty", "holds no name or an empty one"),
        ("c.txt", b"\r\n \r\n", "blank", "holds no name or an empty one"),
        ("c.txt", b"cat\tanimal\n", "a table", r"the name cat\tanimal holds a tab"),
        ("c.yaml", b"classes: [cat", "a torn YAML", "is not YAML"),
        ("c.yaml", b"[" * 5000, "deep YAML", "is not YAML"),
        ("c.yaml", b"- 2026-13-45\n", "a date that is none", "is not YAML"),
        ("c.yaml", BOMB.encode(), "a YAML bomb", "has no list named classes: add one"),
        ("c.yaml", BOMB_OF_NAMES.encode(), "a YAML bomb of names", "is not a name"),
        ("c.yaml", b"classes: &a [*a]\n", "a YAML that holds itself", "is not a name"),
        ("c.yaml", b"- {name: cat, names: &a [*a]}\n", "the same in a name", "is not a name"),
        ("c.yaml", b'- "\\udce9"\n', "half pairs", "holds a tab, a line break"),
    ],
    ids=short,
)
def test_files_of_names_that_cannot_be_are_refused(name, content, what, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert sentence in refused(classes=str(tmp_path / name))


def test_windows_and_old_files_are_read(tmp_path):
    for content in (b"\xef\xbb\xbfcat\r\n\r\n traffic light \r\n", b"cat\rtraffic light"):
        (tmp_path / "c.txt").write_bytes(content)
        assert build_vocabulary(VocabularySettings(classes=str(tmp_path / "c.txt"))).classes == (
            "cat",
            "traffic light",
        )


@pytest.mark.parametrize("ending", ["txt", "yaml"])
def test_any_bytes_are_names_or_a_sentence(ending, tmp_path):
    path = tmp_path / f"c.{ending}"
    words = st.sampled_from(
        ["classes:", "- ", "cat", "[", "]", "{", "}", "&a ", "*a", "\n", ": ", "!"]
    )

    @SEEDED
    @given(st.binary(max_size=60) | st.lists(words, max_size=14).map(lambda w: "".join(w).encode()))
    def read(content):
        path.write_bytes(content)
        try:
            vocabulary = build_vocabulary(VocabularySettings(classes=str(path)))
        except UserError:
            refused(classes=str(path))
        else:
            assert 0 < len(vocabulary.classes) <= 254
            assert all(name.strip() == name and name for name in vocabulary.classes)
            assert len(set(map(same_name, vocabulary.classes))) == len(vocabulary.classes)

    read()
