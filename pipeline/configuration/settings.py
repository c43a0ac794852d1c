"""Settings: dataclasses whose fields declare what they change and which values are allowed.

A group of the configuration is a dataclass beside the code that reads it. OmegaConf checks types
and names against it; :func:`check` checks ranges; :func:`key_facts` makes a key of it, so that a
new setting is part of the key unless its declaration says otherwise. They are not frozen, since
OmegaConf cannot override the fields of those that are.
"""

import copy
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from pipeline.errors import UserError, check_choice, shown
from pipeline.files.text import last_names

_RULE = "rule"

ABSENT = object()
"""In place of what a key does not hold."""

REQUIRED = "???"
"""The value of a field without a default; :data:`omegaconf.MISSING`."""


@dataclass(frozen=True)
class Rule:
    """The declaration of a field.

    Attributes:
        changes: what the setting changes: a "result", only its "rounding", which "images" are
            processed and what files say of them, only the "figures" that are measured, or
            "nothing"; only "result" is part of a cache key.
        why: the reason why the setting is not part of the key; required unless it is.
        stage: the first stage that a change computes anew, where that is not the one of its group.
            With ``why``, it says that the key holds something else for the setting.
        at_least: the smallest number allowed, in a list as well.
        above: a number that the value must exceed.
        at_most: the largest number allowed.
        choices: the words allowed.
        lengths: the numbers of values that a list may have.
        file_values: of a setting that can name code, an address or a command, a regular expression
            of the values that a file of settings may give; only the command line gives others.
        is_path: whether a text is the path of a file or folder, of which the key holds the last
            names.
        in_key: what the key holds in place of a value; nothing for :data:`ABSENT`.
    """

    changes: Literal["result", "rounding", "images", "figures", "nothing"] = "result"
    why: str = ""
    stage: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: Collection[str] = ()
    lengths: Sequence[int] = ()
    file_values: str | None = None
    is_path: bool = False
    in_key: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if (self.changes == "result") == bool(self.why):
            raise TypeError("a setting gives a reason exactly when it is not part of the key")

    def allows(self, number: float) -> bool:
        """Tells whether a number lies in the range."""
        return (
            abs(number) <= sys.float_info.max
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
        )

    @property
    def bounds(self) -> str:
        """The range in words, such as "above 0 and at most 1"; "" where there is none."""
        bounds = {"above": self.above, "at least": self.at_least, "at most": self.at_most}
        given = {word: f"{b:,}".removesuffix(".0") for word, b in bounds.items() if b is not None}
        return " and ".join(map(" ".join, given.items()))


class Settings:
    """The base of dataclasses of settings that depend on each other."""

    def validate(self, prefix: str) -> None:
        """Refuses, by a UserError, values that do not go together; ``prefix`` is their key."""


def setting(default: Any = MISSING, **rule: Any) -> Any:  # noqa: ANN401
    """Declares a field of a group of settings.

    Args:
        default: the default; a list, dictionary or dataclass is copied for every object. Without it
            the field is required.
        **rule: the attributes of :class:`Rule`.
    """
    metadata = {_RULE: Rule(**rule)}
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rule_of(declared: dataclasses.Field) -> Rule:
    """Returns what a field declares; one that declares nothing changes a result."""
    return declared.metadata.get(_RULE, Rule())


def defaults(settings: type) -> dict[str, Any]:
    """Returns the defaults of a dataclass by name, as a configuration holds them."""
    found = {}
    for declared in dataclasses.fields(settings):
        factory, default = declared.default_factory, declared.default
        value = default if factory is MISSING else factory()
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        found[declared.name] = REQUIRED if value is MISSING else value
    return found


_hints = cache(get_type_hints)


class Declared(NamedTuple):
    """A setting; the default is a value, a dictionary for a dataclass, or :data:`REQUIRED`."""

    key: str
    rule: Rule
    type: Any
    default: Any
    meaning: str


def declared_settings(
    settings: type, prefix: str = "", stage: str = "", values: object = None
) -> Iterator[Declared]:
    """Yields every field, and those within it, in its ``stage``; ``values`` replace defaults."""
    hints, meaning_of = _hints(settings), meanings(settings)
    default_of = defaults(settings) | (values if isinstance(values, dict) else {})
    for declared in dataclasses.fields(settings):
        name, rule = declared.name, rule_of(declared)
        if rule.changes == "result":
            rule = dataclasses.replace(rule, stage=rule.stage or stage)
        key, hint = f"{prefix}.{name}".lstrip("."), hints[name]
        yield Declared(key, rule, hint, default_of[name], meaning_of.get(name, ""))
        for inner in filter(dataclasses.is_dataclass, (hint, *get_args(hint))):
            yield from declared_settings(inner, key, rule.stage, default_of[name])


@cache
def meanings(settings: type) -> dict[str, str]:
    """Returns what the attributes of a dataclass mean, by the docstrings of it and its bases."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        _, _, listed = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def check(settings: object, prefix: str = "") -> None:
    """Checks the values of settings, and of settings within them, against their declarations.

    ``prefix`` is their key in the configuration, such as "tags"; "" for the whole configuration.
    What depends on several of them is checked by :meth:`Settings.validate`. Raises a UserError for
    a number outside its range, a word that is not a choice, a text that is empty or holds a NUL
    character, and a list of another length.
    """
    for declared in dataclasses.fields(settings):
        value, key = getattr(settings, declared.name), f"{prefix}.{declared.name}".lstrip(".")
        rule = rule_of(declared)
        if dataclasses.is_dataclass(value):
            check(value, key)
        if value == "" != declared.default:
            raise UserError(f"{key} is empty: give it, {key}=…")
        several = value if isinstance(value, list | tuple) else [value]
        if rule.lengths and len(several) not in rule.lengths:
            number = " or more".join([str(rule.lengths[0]), *[""] * (len(rule.lengths) > 1)])
            raise UserError(f"{key}={shown(value)} has {len(several)} values: give {number}")
        for each in several:
            if isinstance(each, str) and "\0" in each:  # which no path has
                raise UserError(f"{key}={shown(each)} holds a NUL character: remove it")
            if isinstance(each, list) and rule.bounds:
                raise UserError(f"{key}={shown(value)} is a list of lists: give numbers")
            if isinstance(each, str) and rule.choices:
                check_choice(f"{key}={shown(each)} is unknown", each, rule.choices)
            is_number = isinstance(each, int | float) and not isinstance(each, bool)
            if is_number and not rule.allows(each):
                raise UserError(
                    f"{key}={shown(each)} is out of range: give a number {rule.bounds}".rstrip()
                )
    if isinstance(settings, Settings):
        settings.validate(prefix)


def key_facts(
    settings: object, without: Collection[str] = (), what: Collection[str] = ("result",)
) -> dict[str, Any]:
    """Returns the fields that change one of ``what``, as plain values, ``without`` some fields."""
    found = {}
    for declared in dataclasses.fields(settings):
        rule, value = rule_of(declared), getattr(settings, declared.name)
        value = rule.in_key(value) if rule.in_key else value
        if rule.is_path and isinstance(value, str):
            value = last_names(value, declared.name)
        if rule.changes in what and declared.name not in without and value is not ABSENT:
            found[declared.name] = plain(value)
    return found


def joined(*groups: Mapping[str, Any]) -> dict[str, Any]:
    """Returns groups of facts as one group; raises a UserError if two have a name in common."""
    merged: dict[str, Any] = {}
    for group in groups:
        if common := merged.keys() & group.keys():
            raise UserError(
                f"a method has a setting {sorted(common)[0]}, which is the name of another part of"
                " its key: rename the setting"
            )
        merged |= group
    return merged


def plain(value: Any) -> Any:  # noqa: ANN401
    """Returns a setting as JSON holds it: 1 and 1.0 are one value."""
    if dataclasses.is_dataclass(value):
        return key_facts(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value
