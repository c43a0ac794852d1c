"""Class names, the names that CLIP is given for them, backgrounds, parents, and the palette."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from reprlib import repr as bounded_repr
from typing import Any

import yaml

from pipeline.errors import UserError, shown
from pipeline.files.text import given_path, read_text

IGNORE = 255
"""Label of the pixels of a mask that count for nothing."""

MOST_CLASSES = 254
"""Masks are 8-bit: 0 is the background and 255 is ignored."""

Names = tuple[tuple[str, ...], ...]
"""What CLIP reads for each class: one name or several, whose embeddings are averaged."""

_ENTRY_KEYS = frozenset({"name", "names", "cam_names", "parent"})
_FILE_KEYS = frozenset({"classes", "backgrounds"})

BACKGROUND = "background"
"""What label 0 is called, which no class may be."""

_MOST_BYTES = 1 << 20
"""Of a file with class names."""

_MOST_CHARACTERS = 300
"""Of a name. CLIP reads 77 tokens; what is cut off would no longer tell two classes apart."""

_MOST_NAMED = 3
"""Names that an error repeats."""

_UNREADABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, half pairs, and separators of lines."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a data set and what CLIP reads for them.

    Attributes:
        classes: the n class names, as they are shown and stored.
        tag_names: what CLIP reads for each class when tagging, one name or several a class.
        cam_names: what CLIP reads for each class in class activation maps, the same.
        backgrounds: names of what is no class; candidates that absorb probability.
        parents: each class's parent; none where it has none.
        dropped: names that were given as backgrounds and are classes.
    """

    classes: tuple[str, ...]
    tag_names: Names
    cam_names: Names
    backgrounds: tuple[str, ...] = ()
    parents: tuple[str | None, ...] = ()
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for values, key in (
            (self.tag_names, "tag_names"),
            (self.cam_names, "cam_names"),
            (self.parents or self.classes, "parents"),
        ):
            if len(values) != len(self.classes):
                raise UserError(
                    f"dataset.{key} holds {len(values)} names for {len(self.classes)} classes:"
                    f" give one for each class, in the same order, or dataset.{key}=null"
                )
        _ = self.levels  # a circle is found now, and not when everything was computed

    @cached_property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours of background and classes, n+1 RGB triples of 0 to 255."""
        return voc_palette(256)[: len(self.classes) + 1]

    @cached_property
    def levels(self) -> list[tuple[str, ...]]:
        """What each class is called one level up, two levels up, and so on; n names a level.

        A class without a parent keeps its name. A parent that is a class with a parent of its own
        gives a further level. There is no level where there are no parents.
        """
        parent = dict(zip(self.classes, self.parents))
        levels, current = [], self.classes
        while (above := tuple(parent.get(name) or name for name in current)) != current:
            if len(levels) == len(self.classes):
                raise UserError("dataset.parents goes in a circle: leave one of its parents out")
            levels.append(current := above)
        return levels


def build_vocabulary(settings: Mapping) -> Vocabulary:
    """Builds the vocabulary from the ``dataset`` configuration.

    Args:
        settings: ``classes`` is a list of names, the path of a text file with a name a line, or
            the path of a YAML file with ``classes`` and perhaps ``backgrounds``. An entry of a list
            is a name, or a mapping with ``name`` and any of ``names`` (what CLIP reads, averaged),
            ``cam_names`` (the same for maps) and ``parent``. ``tag_names``, ``cam_names`` and
            ``parents`` give the same as lists, one entry a class. ``backgrounds`` is a list; a
            background that is also a class is left out and kept in ``dropped``.

    Raises:
        UserError: no classes, a missing file, an empty or repeated name, or too many names.
    """
    given, backgrounds = _read_classes(settings.get("classes"))
    entries = [_entry(item) for item in given]
    classes = tuple(entry["name"] for entry in entries)
    _check(classes)
    tag_names = _several(settings.get("tag_names"), "tag_names") or tuple(
        entry["names"] or (entry["name"],) for entry in entries
    )
    cam_names = _several(settings.get("cam_names"), "cam_names") or tuple(
        entry["cam_names"] or names for entry, names in zip(entries, tag_names)
    )
    parents = tuple(
        None if parent is None else _name(parent)
        for parent in _list(settings.get("parents"), "parents")
        or [entry["parent"] for entry in entries]
    )
    taken = {name.lower() for name in (*classes, *(n for names in tag_names for n in names))}
    wanted = _tuple(settings.get("backgrounds") if backgrounds is None else backgrounds)
    if not all(wanted):
        raise UserError("dataset.backgrounds holds an empty name: leave it out")
    return Vocabulary(
        classes,
        tag_names,
        cam_names,
        tuple(n for n in wanted if n.lower() not in taken),
        parents if any(parents) else (),
        tuple(n for n in wanted if n.lower() in taken),
    )


def _read_classes(given: Sequence | str | None) -> tuple[Sequence, Sequence | None]:
    """Returns the entries of the classes and, where a YAML file has them, the backgrounds."""
    if given is None:
        raise UserError(
            "dataset.classes is missing: give a list, dataset.classes=[cat,dog],"
            " or the path of a text file with one name a line"
        )
    if not isinstance(given, str):
        if not isinstance(given, list | tuple):
            raise UserError(
                f"dataset.classes={_brief(given)} is no list: give one, dataset.classes=[cat]"
            )
        return given, None
    name = f"dataset.classes={shown(given)}"
    path = given_path(given, "dataset.classes")
    text = read_text(
        path,
        name,
        "give the path of a text file with one name a line, or a list, dataset.classes=[cat,dog]",
        _MOST_BYTES,
    )
    if path.suffix.lower() not in (".yaml", ".yml"):
        # Not splitlines(), which would end a name at characters that end no line in an editor.
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return [line.strip() for line in lines if line.strip()], None
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not YAML: {reason}: correct it") from error
    if isinstance(content, list):
        return content, None
    if not isinstance(content, Mapping) or not isinstance(content.get("classes"), list):
        raise UserError(f"{name} has no list named classes: add one")
    _refuse_unknown(content, _FILE_KEYS, name)
    return content["classes"], content.get("backgrounds")


def _entry(given: Any) -> dict[str, Any]:
    """Returns an entry of the classes with all of its keys."""
    if not isinstance(given, Mapping):
        given = {"name": given}
    _refuse_unknown(given, _ENTRY_KEYS, "an entry of dataset.classes")
    name, parent = given.get("name"), given.get("parent")
    if name is None:
        raise UserError(f"an entry of dataset.classes has no name: add name to {_brief(given)}")
    entry = {
        "name": _name(name).strip(),
        "names": _tuple(given.get("names")),
        "cam_names": _tuple(given.get("cam_names")),
        "parent": None if parent is None else _name(parent),
    }
    if not all((*entry["names"], *entry["cam_names"])):
        raise UserError(f"an entry of dataset.classes holds an empty name: correct {_brief(given)}")
    return entry


def _brief(given: Any) -> str:
    """Returns an entry as an error repeats it; of YAML's aliases, few lines stand for billions."""
    return shown(bounded_repr(given))


def _refuse_unknown(given: Mapping, known: Iterable[str], where: str) -> None:
    unknown = sorted(set(map(str, given)) - set(known))
    if unknown:
        raise UserError(f"{where} has {shown(unknown[0])}: it may have {', '.join(sorted(known))}")


def _list(given: Any, key: str) -> Sequence:
    if given is not None and not isinstance(given, list | tuple):
        raise UserError(f"dataset.{key}={_brief(given)} is no list: give one, or null")
    return given or ()


def _several(given: Sequence | None, key: str) -> Names:
    names = tuple(_tuple(item) for item in _list(given, key))
    if not all(all(several) and several for several in names):
        raise UserError(f"dataset.{key} holds an empty name: give every class a name")
    return names


def _tuple(given: Any) -> tuple[str, ...]:
    """Returns one name or a list of names as a tuple."""
    if given is None:
        return ()
    return tuple(map(_name, given)) if isinstance(given, list | tuple) else (_name(given),)


def _name(given: Any) -> str:
    """Returns a name as text; YAML takes some words for something else, as "no" for false."""
    if isinstance(given, bool | list | tuple | Mapping) or given is None:
        raise UserError(f"{_brief(given)} is no name: write it in quotes, as in 'no', if it is one")
    name = str(given)
    if any(unicodedata.category(character) in _UNREADABLE for character in name.strip()):
        raise UserError(
            f"the name {shown(name)} holds a tab, a line break or another control character: take"
            " it out"
        )
    if len(name.strip()) > _MOST_CHARACTERS:
        raise UserError(
            f"the name {shown(name)} has {len(name.strip())} characters: give one of at most"
            f" {_MOST_CHARACTERS}, since CLIP does not read more"
        )
    return name


def same_name(name: str) -> str:
    """Returns the form in which names are equal that CLIP cannot tell apart.

    Its tokenizer knows neither case nor the width of white space, nor how accents are encoded.
    """
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def _check(names: Sequence[str]) -> None:
    if not names or not all(names):
        raise UserError("dataset.classes holds no name or an empty one: give every class a name")
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"dataset.classes holds {len(names)} names: leave some out, since 8-bit masks have"
            f" room for {MOST_CLASSES}"
        )
    first: dict[str, str] = {}
    repeated = []
    for name in names:
        if (same := same_name(name)) in first:
            other = first[same]
            repeated.append(name if name == other else f"{other} (also as {name})")
        first.setdefault(same, name)
    if repeated:
        more = f" and {len(repeated) - _MOST_NAMED} more" if len(repeated) > _MOST_NAMED else ""
        few = shown(", ".join(repeated[:_MOST_NAMED]))
        raise UserError(f"dataset.classes names {few}{more} twice: keep one of each")
    if same_name(BACKGROUND) in first:
        raise UserError(
            f"dataset.classes names {first[BACKGROUND]}, which is label 0 without being named:"
            " leave it out"
        )


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """Returns the first ``count`` colours of PASCAL VOC's colour map (the devkit's VOCcolormap).

    Bit 3k+c of a label goes to bit 7-k of channel c, so that neighbouring labels differ.
    """
    palette = []
    for label in range(count):
        colour = [0, 0, 0]
        for k in range(8):
            for channel in range(3):
                colour[channel] |= ((label >> (3 * k + channel)) & 1) << (7 - k)
        palette.append(tuple(colour))
    return palette
