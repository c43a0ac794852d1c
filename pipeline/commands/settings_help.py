"""What ``help`` and docs/settings.md say of settings and choices, from their declarations."""

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from pipeline.clip.settings import compat_settings
from pipeline.configuration.hydra import choices, no_such_setting, preset_folders
from pipeline.configuration.registry import Method, methods, quirks
from pipeline.configuration.settings import REQUIRED, Declared, declared_settings, plain
from pipeline.datasets import READERS, find_reader
from pipeline.errors import UserError, check_choice, command, shown
from pipeline.files.shipped import CONFIGS
from pipeline.stages.config import EXECUTORS, METHODS, Config

_FIRST = {"": "train", "cams": "cams", "masks": "masks", "segmenter": "train"}
"""Group → the first stage that its settings change, where that is not ``tags``."""

_WORDS = {
    r"(\w+\.)+": "",
    r"dict\[.*?\]": "mapping",
    r" \| ": " or ",
    "None": "null",
    "^Any$": "",
    r"list\[(.*?)\]": r"list of \1",
    r"\w+(Options|Settings)": "settings",
}
"""Patterns in Python's types → words for them."""

_PUBLICATION = re.compile(r"(\w+?)_(?:voc|coco|ade|context|city)")  # in the name of an experiment


class Choice(NamedTuple):
    """A choice; or a group, with the name "", whose choices share their settings."""

    group: str  # "" for the keys at the root
    name: str
    settings: type
    text: str  # reStructuredText
    method: Method | None = None


class Entry(NamedTuple):
    """A setting in words: as typed with its default, type and range, meaning, what it changes."""

    key: str
    default: str  # as YAML; "" without one, or if its keys follow
    values: str
    meaning: str
    anew: str  # what a change computes anew


def described_choices() -> list[Choice]:
    """Returns the choices that have a dataclass, and the other groups, in the order of groups."""
    found = [Choice(m.group, m.name, m.settings, prose(m.settings), m) for m in methods()]
    for name in READERS:
        reader, settings = find_reader(name)
        found.append(Choice("dataset", name, settings, prose(reader)))
    kinds = {**get_type_hints(Config), "compat": compat_settings()}
    found += [Choice("executor", name, kind, prose(kind)) for name, kind in EXECUTORS.items()]
    groups = {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}
    found += [Choice(g, "", kind, prose(kind).split("\n\n")[0]) for g, kind in groups.items()]
    found.sort(key=lambda choice: [*kinds].index(choice.group))
    return [*found, Choice("", "", Config, "Keys that belong to no group.")]


def described_settings(given: Iterable[Choice]) -> dict[Entry, list[str]]:
    """Returns the settings of choices, each with the names of those that have it, most first."""
    found: dict[Entry, list[str]] = {}
    for choice in given:
        for each in settings_of(choice):
            words = f"one of {', '.join(each.rule.choices)}" if each.rule.choices else ""
            values = "; ".join(filter(None, [type_of(each), words or each.rule.bounds]))
            meaning = re.sub(r"^(a|[a-z]{2,})\b", lambda word: word[0].capitalize(), each.meaning)
            entry = Entry(each.key, as_yaml(each.default), values, meaning, computed_anew(each))
            found.setdefault(entry, []).append(choice.name)
    order = {entry.key: number for number, entry in reversed([*enumerate(found)])}
    return dict(sorted(found.items(), key=lambda item: (order[item[0].key], -len(item[1]))))


def settings_of(choice: Choice) -> list[Declared]:
    """Returns the settings of a choice."""
    found = [*declared_settings(choice.settings, choice.group)]
    outside = [each for each in found if "." not in each.key and each.default != REQUIRED]
    return found if choice.group else outside


def type_of(setting: Declared) -> str:
    """Returns the type of a setting in words; "" if any is allowed."""
    text = inspect.formatannotation(setting.type)
    for code, word in _WORDS.items():
        text = re.sub(code, word, text)
    return text


def computed_anew(setting: Declared) -> str:
    """Returns the stages that a change of a setting computes anew; why, unless a key tells."""
    group, _, name = setting.key.rpartition(".")
    group, rule = group.partition(".")[0], setting.rule
    first = rule.stage or _FIRST.get(group, "tags")
    if group == "compat":
        first = next((stage for stage in METHODS if name in quirks(stage)), first)
    anew = "the rounds after the first" if group == "self_training" else f"{first} and later stages"
    if rule.changes != "result" and not rule.stage:
        only = {"images": "only images that it adds or changes", "figures": "only the metrics"}
        anew = only.get(rule.changes, "nothing")
    return f"{anew} ({rule.why})" if rule.why else anew


def as_yaml(default: Any) -> str:  # noqa: ANN401
    """Returns a default as the command line takes it; "" without one, or if its keys follow."""
    text = yaml.safe_dump(plain(default), default_flow_style=True, allow_unicode=True, width=10**6)
    is_typed = default != REQUIRED and not (isinstance(default, dict) and default)
    return text.removesuffix("\n").removesuffix("\n...") * is_typed


def prose(documented: Any) -> str:  # noqa: ANN401
    """Returns a docstring up to its first section, such as ``Attributes:``."""
    signature = rf"\A{documented.__name__}\("  # which a dataclass without a docstring has
    return re.split(rf"(?m)^\w+:$|{signature}", inspect.getdoc(documented) or "")[0].strip()


def unmarked(text: str, mark: str = "") -> str:
    """Returns reStructuredText with ``mark`` in place of its quotes and roles."""
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", rf"{mark}\1{mark}", text).replace("``", mark)


def only_with(names: Collection[str], own: Sequence[Choice]) -> str:
    """Returns which choices have a setting, or which do not if they are fewer; "" if all do."""
    others = [each.name for each in own if each.name not in names]
    listed = ("not", others) if len(others) < len(names) else ("only", names)
    return f"{listed[0]} with {own[0].group}={', '.join(listed[1])}" if others else ""


# In the terminal


def help_on(word: str) -> str:
    """Returns help on a setting, on those of a group, or on GROUP=CHOICE.

    Raises a UserError that names the nearest setting or choice if there is none of that name.
    """
    key, is_choice, name = word.partition("=")
    described, known = described_choices(), choices()
    own = [each for each in described if each.group == key.partition(".")[0]] or described[-1:]
    if is_choice and key in known:
        check_choice(f"there is no {shown(word)}", name, sorted(known[key]))
        own, parts = [each for each in own if each.name == name], [word]
        parts += [unmarked(each.text) for each in own if each.text]
        parts += [f"Source: {m.source}" for *_, m in own if m and m.source]
        files = [folder / key / f"{name}.yaml" for folder in (CONFIGS, *preset_folders())]
        texts = [text for file in files if file.is_file() for text in _texts(file)]
        parts += [text.strip() for text in texts]
        parts += _settings(own) or [f"what a setting means: {command()} help KEY"]
    elif key in known or key == own[0].group:
        parts = [unmarked(each.text) for each in own if each.group and not each.name]
        parts += [listed_choices(key)] if key in known else []
        parts += _settings(own) if key == own[0].group else []
    elif not (parts := _settings(own, key)):
        every = [*known, *(entry.key for entry in described_settings(described))]
        raise UserError(no_such_setting(key, None, every))
    return "\n\n".join(parts) + "\n"


def _texts(file: Path) -> Iterator[str]:
    """Yields the text of a preset, and of those in its folder that it builds on."""
    yield (text := file.read_text(encoding="utf-8"))
    for name in yaml.safe_load(text).get("defaults", ()):
        if isinstance(name, str) and (base := file.with_name(f"{name}.yaml")).is_file():
            yield from _texts(base)


def listed_choices(group: str) -> str:
    """Returns the choices of a group at the terminal's width, experiments by publication."""
    names, of_one = sorted(choices()[group] - {"default"}), {}  # on which the others build
    for name in names:
        published = _PUBLICATION.match(name) if group == "experiment" else None
        of_one.setdefault(published[1] if published else "", []).append(name)
    texts = [f"    {', '.join(of_one[each])}" for each in sorted(of_one)]
    texts = [f"  {group}:", *texts] if texts[1:] else [f"  {group}: {', '.join(names)}"]
    return "\n".join(_wrapped(text, "      ") for text in texts)


def _settings(own: Sequence[Choice], key: str = "") -> list[str]:
    """Returns a paragraph on each setting of choices, or on one and those below it."""
    parts = []
    for entry, names in described_settings(own).items():
        if f"{entry.key}.".startswith(f"{key}." if key else ""):
            lines = [unmarked(entry.meaning), entry.values, only_with(names, own)]
            lines = [*filter(None, lines), f"a change computes anew: {entry.anew}"]
            head = f"{entry.key}={entry.default}" if entry.default else entry.key
            parts.append("\n".join([head, *(_wrapped(f"    {line}", "    ") for line in lines)]))
    return parts


def _wrapped(text: str, indent: str) -> str:
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)
