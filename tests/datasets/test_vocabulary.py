"""Class names in the forms in which users give them."""

from __future__ import annotations

import pytest

from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary, voc_palette
from pipeline.errors import UserError

ANIMALS = [
    "person",
    {"name": "cat", "names": ["cat", "kitten"], "parent": "animal"},
    {"name": "bird", "cam_names": "bird avian", "parent": "animal"},
]


def vocabulary_of(classes, **others) -> Vocabulary:
    return build_vocabulary(VocabularySettings(classes=classes, **others))


def test_a_background_that_is_a_class_is_removed():
    vocabulary = vocabulary_of(["Road", "cat"], backgrounds=["road", "sky"])
    assert vocabulary.backgrounds == ("sky",)
    assert vocabulary.dropped == ("road",)
    assert vocabulary.tag_names == vocabulary.cam_names == (("Road",), ("cat",))


def test_a_background_that_is_another_name_of_a_class_is_removed_too():
    settings = {"classes": ANIMALS, "backgrounds": ["Kitten", "sky", "kitten"]}
    vocabulary = vocabulary_of(**settings)
    assert vocabulary.backgrounds == ("sky",)
    assert vocabulary.dropped == ("Kitten", "kitten")
    assert vocabulary_of(["cat"], backgrounds=["sky"]).dropped == ()


def test_one_background_needs_no_list():
    assert vocabulary_of(["cat"], backgrounds="sky").backgrounds == ("sky",)
    assert vocabulary_of(["cat"], backgrounds=None).backgrounds == ()
    with pytest.raises(UserError, match="dataset.backgrounds .* empty name"):
        vocabulary_of(["cat"], backgrounds=["sky", ""])


def test_a_class_may_have_several_names_and_others_for_cams():
    vocabulary = vocabulary_of(ANIMALS)
    assert vocabulary.classes == ("person", "cat", "bird")
    assert vocabulary.tag_names == (("person",), ("cat", "kitten"), ("bird",))
    assert vocabulary.cam_names == (("person",), ("cat", "kitten"), ("bird avian",))
    assert vocabulary.parents == (None, "animal", "animal")


def test_names_can_be_given_as_lists_beside_the_classes():
    settings = {
        "classes": ["cat", "bird"],
        "tag_names": [["cat", "kitten"], "bird"],
        "cam_names": ["cat", ["bird avian", "bird"]],
        "parents": ["animal", None],
    }
    vocabulary = vocabulary_of(**settings)
    assert vocabulary.tag_names == (("cat", "kitten"), ("bird",))
    assert vocabulary.cam_names == (("cat",), ("bird avian", "bird"))
    assert vocabulary.levels == [("animal", "bird")]


def test_a_yaml_file_holds_classes_and_perhaps_backgrounds(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(
        "classes:\n"
        "  - person\n"
        "  - {name: cat, names: [cat, kitten], parent: animal}\n"
        "  - {name: bird, cam_names: [bird avian], parent: animal}\n"
        "backgrounds: [sky, cat]\n"
    )
    vocabulary = vocabulary_of(str(path), backgrounds=["grass"])
    assert vocabulary == vocabulary_of(ANIMALS, backgrounds=["sky", "cat"])
    assert vocabulary.backgrounds == ("sky",) and vocabulary.dropped == ("cat",)

    path.write_text("classes: [cat]\nbackgrounds: []\n")
    assert vocabulary_of(str(path), backgrounds=["grass"]).backgrounds == ()
    path.write_text("classes: [cat]\n")
    assert vocabulary_of(str(path), backgrounds=["a"]).backgrounds == ("a",)
    other = path.rename(path.with_suffix(".YML"))
    other.write_text("- cat\n- {name: 猫, parent: animal}\n", encoding="utf-8")
    assert vocabulary_of(str(other)).classes == ("cat", "猫")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {cat: 1}\n", "has no list named classes"),
        ("classes: [cat]\nbackground: [a]\n", "has background: did you mean backgrounds"),
        ("classes: [{name: cat, cam_name: x}]\n", "has cam_name: did you mean cam_names"),
        ("classes: [{parent: animal}]\n", "has no name: add name to"),
        ("classes: [{name: cat, names: [cat, '']}]\n", "holds an empty name: leave it out"),
        ("classes: [yes, no]\n", "True is not a name: if it is one, write it in quotes"),
        ("classes: [~]\n", "has no name"),
    ],
)
def test_yaml_files_that_are_not_as_expected_are_answered(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        vocabulary_of(str(path))
    assert "\n" not in str(error.value)


def test_other_names_are_not_empty():
    for names in (["a", ""], ["a", []], ["a", ["b", ""]]):
        with pytest.raises(UserError, match="dataset.tag_names .* empty name"):
            vocabulary_of(["a", "b"], tag_names=names)


def test_numbers_are_names():
    assert vocabulary_of([1, 2.5, "3"]).classes == ("1", "2.5", "3")


def levels_of(parents):
    return vocabulary_of(list(parents), parents=list(parents.values())).levels


def test_without_parents_there_is_no_level():
    assert vocabulary_of(["a", "b"]).levels == []
    assert levels_of({"a": None, "b": None}) == []


def test_a_class_without_a_parent_keeps_its_name():
    assert vocabulary_of(ANIMALS).levels == [("person", "animal", "animal")]


def test_a_parent_may_be_named_like_its_class():
    assert levels_of({"person": "person", "cat": "animal"}) == [("person", "animal")]
    assert levels_of({"person": "person", "cat": None}) == []
    # A class's parent may be another class, which has none of its own.
    assert levels_of({"animal": None, "cat": "animal"}) == [("animal", "animal")]


def test_a_chain_of_parents_gives_a_level_each():
    levels = levels_of({"cat": "mammal", "mammal": "animal", "bird": "animal"})
    assert levels == [("mammal", "animal", "animal"), ("animal", "animal", "animal")]
    levels = levels_of({"a": "b", "b": "c", "c": "d"})
    assert levels == [("b", "c", "d"), ("c", "d", "d"), ("d", "d", "d")]


@pytest.mark.parametrize(
    "parents",
    [{"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "a"}, {"x": "a", "a": "b", "b": "a"}],
)
def test_cycles_of_parents_are_refused_at_once(parents):
    with pytest.raises(UserError, match="dataset.parents has a cycle"):
        vocabulary_of(list(parents), parents=list(parents.values()))


def test_palette_is_the_devkits():
    assert voc_palette(21)[1:4] == [(128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert voc_palette(21)[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256


def test_the_palette_of_a_vocabulary_has_a_colour_for_the_background():
    assert vocabulary_of(["a", "b"]).palette == voc_palette(3)
