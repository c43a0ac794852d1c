"""The choices of the configuration, and their settings, from dataclasses and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import omegaconf
from omegaconf import OmegaConf

from pipeline.clip.settings import compat_settings
from pipeline.configuration.registry import Method, methods
from pipeline.configuration.settings import Rule, meanings, rule_of
from pipeline.datasets import READERS, find_reader
from pipeline.files.shipped import CONFIGS
from pipeline.stages.config import EXECUTORS, Config

REQUIRED = (dataclasses.MISSING, omegaconf.MISSING)
"""Defaults of settings that have none."""


@dataclass(frozen=True)
class Choice:
    """What a page describes: a choice of a group, or a group whose choices share their settings.

    Attributes:
        group: a group of the configuration; "" for the keys at its root.
        name: the choice; "" for a whole group.
        settings: the dataclass of the settings.
        text: what it is, reStructuredText.
        method: the registered method, if it is one.
    """

    group: str
    name: str
    settings: type
    text: str
    method: Method | None = None

    @property
    def title(self) -> str:
        """The choice as it is typed, or the group."""
        return f"{self.group}={self.name}" if self.name else self.group or "other keys"

    @property
    def page(self) -> str:
        """The name of its page."""
        return re.sub(r"\W", "-", self.title)


@dataclass(frozen=True)
class Setting:
    """A setting with its key; ``default`` is a value, or one of :data:`REQUIRED`."""

    key: str
    type: str
    default: Any
    rule: Rule
    meaning: str


def choices() -> list[Choice]:
    """Returns all choices of groups with a dataclass for each, and the other groups, in order."""
    found = [Choice(m.group, m.name, m.settings, prose(m.settings), m) for m in methods()]
    for name in READERS:
        reader, settings = find_reader(name)
        found.append(Choice("dataset", name, settings, prose(reader)))
    found += [Choice("executor", name, kind, prose(kind)) for name, kind in EXECUTORS.items()]
    kinds = {**get_type_hints(Config), "compat": compat_settings()}
    found += [
        Choice(group, "", kind, prose(kind))
        for group, kind in kinds.items()
        if dataclasses.is_dataclass(kind)
    ]
    found.sort(key=lambda choice: [*kinds].index(choice.group))
    return [*found, Choice("", "", Config, "Keys that belong to no group.")]


def prose(documented: Any) -> str:  # noqa: ANN401
    """Returns a docstring up to its first section, such as ``Attributes:``."""
    text = inspect.getdoc(documented) or ""
    return re.split(r"^(?:Attributes|Args|Returns|Raises|Yields):$", text, flags=re.M)[0].strip()


def settings_of(settings: type, prefix: str, values: Any = None) -> Iterator[Setting]:  # noqa: ANN401
    """Yields the settings of a dataclass, and of dataclasses within it.

    ``values`` are those that a file of settings gives, in place of the dataclass's defaults.
    """
    meaning_of, hints = meanings(settings), get_type_hints(settings)
    for declared in dataclasses.fields(settings):
        default, key = declared.default, f"{prefix}.{declared.name}".lstrip(".")
        if declared.default_factory is not dataclasses.MISSING:
            default = declared.default_factory()
        if default in REQUIRED and not prefix:
            continue  # a group of the configuration has pages of its own
        given = values.get(declared.name, default) if isinstance(values, dict) else default
        kind = re.sub(r"(\w+\.)+", "", inspect.formatannotation(hints[declared.name]))
        meaning = meaning_of.get(declared.name, "")
        yield Setting(key, kind, given, rule_of(declared), meaning)
        for nested in {hints[declared.name], *get_args(hints[declared.name])}:
            if dataclasses.is_dataclass(nested):
                yield from settings_of(nested, key, given)


def presets(choice: Choice) -> Iterator[Path]:
    """Yields the files of settings in ``configs/`` that choose what a page describes."""
    for path in sorted((CONFIGS / choice.group).glob("*.yaml")) if choice.group else ():
        listed = [d for d in OmegaConf.load(path).get("defaults", []) if isinstance(d, str)]
        base = next((name for name in listed if name != "_self_"), path.stem)
        if not choice.name or choice.name in (base, path.stem):
            yield path
