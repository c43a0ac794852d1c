"""Class names, the names that CLIP reads for them, backgrounds, parents, and the palette."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from reprlib import repr as bounded_repr
from typing import Any

import yaml

from pipeline.datasets.settings import VocabularySettings
from pipeline.errors import UserError, check_choice, first_of, shown
from pipeline.files.label_images import BACKGROUND
from pipeline.files.text import given_path, read_text

MAX_CLASSES = 254
"""Masks are 8-bit: 0 is the background and 255 is ignored."""

Names = tuple[tuple[str, ...], ...]
"""The names that CLIP reads for each class; the embeddings of several names are averaged."""

_ENTRY_KEYS = ("name", "names", "cam_names", "parent")

_MAX_BYTES = 1 << 20  # of a file with class names
_MAX_CHARACTERS = 300  # of a name; CLIP reads 77 tokens
_MAX_NAMED = 3  # names that an error repeats
_UNREADABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, surrogates, separators


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a data set and the names that CLIP reads for them.

    Attributes:
        classes: the n class names, as they are shown and stored.
        tag_names: the names that CLIP reads for each class when tagging, at least one per class.
        cam_names: the same for class activation maps.
        backgrounds: names of what is not a class; candidates that absorb probability.
        parents: the parent of each class, or none; perhaps empty if no class has one.
        dropped: names that were given as backgrounds but are classes.
    """

    classes: tuple[str, ...]
    tag_names: Names
    cam_names: Names
    backgrounds: tuple[str, ...] = ()
    parents: tuple[str | None, ...] = ()
    dropped: tuple[str, ...] = ()

    @cached_property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours of background and classes, n+1 RGB triples of 0 to 255."""
        return voc_palette(len(self.classes) + 1)

    @cached_property
    def levels(self) -> list[tuple[str, ...]]:
        """The name of each class one level up, two levels up, and so on; n names per level.

        A class without a parent keeps its name. A parent that is itself a class with a parent adds
        a level. Without parents there are no levels. Raises a UserError if the parents have a
        cycle.
        """
        parent = dict(zip(self.classes, self.parents))
        levels, current = [], self.classes
        while (above := tuple(parent.get(name) or name for name in current)) != current:
            if len(levels) == len(self.classes):
                raise UserError("dataset.parents has a cycle: leave one of its parents out")
            levels.append(current := above)
        return levels


def annotated_names(given: Sequence[str] | None, vocabulary: Vocabulary) -> Sequence[str]:
    """Returns the names that annotations have for the classes; a UserError unless all have one."""
    names = given or vocabulary.classes
    require_each("dataset.annotated_as", names, vocabulary.classes)
    return names


def require_each(
    key: str, given: Sequence, classes: Sequence[str], kind: str = "names", more: str = ""
) -> None:
    """Raises a UserError unless a setting holds one name, or what ``kind`` says, for each class."""
    if len(given) != len(classes):
        raise UserError(
            f"{key} holds {len(given)} {kind} for {len(classes)} classes: give one for each"
            f" class, in the same order{more}"
        )


def build_vocabulary(settings: VocabularySettings) -> Vocabulary:
    """Parses class names; backgrounds that are also classes are moved to ``dropped``.

    Raises a UserError for no classes, too many, a missing file, or an empty or repeated name.
    """
    items, backgrounds = _read_classes(settings.classes)
    entries = [_entry(item) for item in items]
    classes = tuple(entry["name"] for entry in entries)
    _check(classes)

    def per_class(key: str) -> Sequence:
        """Returns a setting that is a list with an entry for each class, or nothing."""
        values = getattr(settings, key)
        if values is not None and not isinstance(values, list | tuple):
            raise UserError(f"dataset.{key}={_brief(values)} is not a list: give one, or null")
        if values:
            require_each(f"dataset.{key}", values, classes, more=f", or dataset.{key}=null")
        return values or ()

    given: dict[str, Names] = {}
    for key in ("tag_names", "cam_names"):
        given[key] = tuple(as_names(item, f"dataset.{key}") for item in per_class(key))
        if not all(given[key]):
            raise UserError(f"dataset.{key} holds an empty name: give every class a name")
    tag_names = given["tag_names"] or tuple(e["names"] or (e["name"],) for e in entries)
    cam_names = given["cam_names"] or tuple(
        entry["cam_names"] or names for entry, names in zip(entries, tag_names)
    )
    parents = tuple(
        None if parent is None else _name(parent)
        for parent in per_class("parents") or [entry["parent"] for entry in entries]
    )
    if backgrounds is None:
        backgrounds = settings.backgrounds
    wanted = as_names(backgrounds, "dataset.backgrounds")
    taken = {name.lower() for name in (*classes, *chain(*tag_names))}
    kept = tuple(name for name in wanted if name.lower() not in taken)
    dropped = tuple(name for name in wanted if name.lower() in taken)
    vocabulary = Vocabulary(classes, tag_names, cam_names, kept, parents, dropped)
    _ = vocabulary.levels  # refuses a cycle now, not after everything was computed
    return vocabulary


def _read_classes(given: object) -> tuple[Sequence, Sequence | None]:
    """Returns the entries of the classes, and the backgrounds if a YAML file has them."""
    wanted = (
        "give the path of a text file with one name per line, or a list, dataset.classes=[cat,dog]"
    )
    if given is None:
        raise UserError(f"dataset.classes is missing: {wanted}")
    if isinstance(given, list | tuple):
        return given, None
    if not isinstance(given, str):
        raise UserError(f"dataset.classes={_brief(given)} is not a list: {wanted}")
    name = f"dataset.classes={shown(given)}"
    path = given_path(given, "dataset.classes")
    text = read_text(path, name, wanted, _MAX_BYTES)
    if path.suffix.lower() not in (".yaml", ".yml"):
        # splitlines() would also break lines at characters at which editors do not.
        return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()], None
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not YAML: {reason}: correct it") from error
    if isinstance(content, list):
        return content, None
    if not isinstance(content, Mapping) or not isinstance(content.get("classes"), list):
        raise UserError(f"{name} has no list named classes: add one")
    for key in content:
        check_choice(f"{name} has {shown(key)}", key, ("classes", "backgrounds"))
    return content["classes"], content.get("backgrounds")


def _entry(given: object) -> dict[str, Any]:
    """Returns an entry of the classes as a mapping with all of its keys."""
    if not isinstance(given, Mapping):
        given = {"name": given}
    for key in given:
        check_choice(f"an entry of dataset.classes has {shown(key)}", key, _ENTRY_KEYS)
    if given.get("name") is None:
        raise UserError(f"an entry of dataset.classes has no name: add name to {_brief(given)}")
    where = f"{_brief(given)} in dataset.classes"
    return {
        "name": _name(given["name"]),
        "names": as_names(given.get("names"), where),
        "cam_names": as_names(given.get("cam_names"), where),
        "parent": given.get("parent"),
    }


def _brief(given: object) -> str:
    """Returns an entry as an error repeats it, cut: a few YAML aliases can expand to gigabytes."""
    return shown(bounded_repr(given))


def as_names(given: object, where: str) -> tuple[str, ...]:
    """Returns a name or a list of names as a tuple, and nothing as an empty one.

    Raises a UserError for an empty name, or one that CLIP cannot read; ``where`` is their origin.
    """
    items = given if isinstance(given, list | tuple) else [] if given is None else [given]
    names = tuple(map(_name, items))
    if not all(names):
        raise UserError(f"{where} holds an empty name: leave it out, or correct it")
    return names


def _name(given: object) -> str:
    """Returns a name as text; YAML reads some words as other types, such as "no" as false."""
    if isinstance(given, bool | list | tuple | Mapping) or given is None:
        raise UserError(f"{_brief(given)} is not a name: if it is one, write it in quotes, as 'no'")
    name = str(given).strip()
    if any(unicodedata.category(character) in _UNREADABLE for character in name):
        raise UserError(
            f"the name {shown(name)} holds a tab, a line break or another control character: remove"
            " it"
        )
    if len(name) > _MAX_CHARACTERS:
        raise UserError(
            f"the name {shown(name)} has {len(name)} characters: give one of at most"
            f" {_MAX_CHARACTERS}, since CLIP does not read more"
        )
    return name


def same_name(name: str) -> str:
    """Returns a form that is equal for names that CLIP cannot distinguish.

    Its tokenizer ignores case, the amount of white space, and the encoding of accents.
    """
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def _check(names: Sequence[str]) -> None:
    if not names or not all(names):
        raise UserError("dataset.classes holds no name or an empty one: give every class a name")
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"dataset.classes holds {len(names)} names: leave some out, since 8-bit masks have"
            f" room for {MAX_CLASSES}"
        )
    written: dict[str, list[str]] = {}
    for name in names:
        written.setdefault(same_name(name), []).append(name)
    repeated = [
        name if name == first else f"{first} (also as {name})"
        for first, *others in written.values()
        for name in others
    ]
    if repeated:
        few = first_of(repeated, _MAX_NAMED)
        raise UserError(f"dataset.classes names {few} twice: keep one of each")
    if BACKGROUND in written:
        raise UserError(
            f"dataset.classes names {written[BACKGROUND][0]}, which is label 0 without being named:"
            " leave it out"
        )


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """Returns the first ``count`` colours of PASCAL VOC's colour map (VOCcolormap of the devkit).

    They are RGB triples of 0 to 255. Bit 3k+c of a label goes to bit 7-k of channel c, so that
    consecutive labels differ.
    """
    return [
        tuple(sum((label >> 3 * k + c & 1) << 7 - k for k in range(8)) for c in range(3))
        for label in range(count)
    ]
