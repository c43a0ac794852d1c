"""The settings of results: as text, by their dotted names, and those that differ."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pipeline.configuration.registry import methods
from pipeline.configuration.settings import REQUIRED, defaults
from pipeline.datasets import settings_of
from pipeline.engine.kinds import kinds
from pipeline.engine.records import describe_legend
from pipeline.files.atomic import canonical_json
from pipeline.files.fingerprints import fingerprint
from pipeline.masks.settings import method_word

_MAX_LIST = 4  # entries

_FINGERPRINTS = ("weights", "data", "code")
"""Settings that only identify a content; they are omitted if others distinguish the results."""

_DESCRIBED = ("method", "name", "seed")

OPTIONAL = ("corrections", "repeat_corrected")
"""Settings that are not there where they change nothing."""

_MISSING = ""  # stands for the value of a setting that a configuration lacks

Values = list[str]
"""The values of a setting in each configuration, as JSON, or missing."""


def describe_setting(value: object) -> str:
    """Returns a setting as on the command line; for a long list its length and fingerprint."""
    if value is None or isinstance(value, bool):
        return canonical_json(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        if len(value) > _MAX_LIST:
            return f"{len(value)} entries ({fingerprint(value)[:4]})"
        return f"[{', '.join(map(describe_setting, value))}]"
    return "on" if isinstance(value, Mapping) else str(value)


def readable(
    settings: Mapping[str, Any], legend: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns settings in which words take the place of the fingerprints of a manifest's legend."""
    found = {}
    for name, value in settings.items():
        is_named = isinstance(value, str) and value in legend
        found[name] = describe_legend(legend[value]) if is_named else value
        if isinstance(value, Mapping):
            found[name] = readable(value, legend)
    return found


def describe_choices(configuration: Mapping[str, Any]) -> str:
    """Names the methods, names and seeds of a configuration, from its last stage to its first."""
    labels = {"name": "", "seed": "seed ", "method": ""}
    given = {**configuration, "method": method_word(configuration)}
    choices = [f"{labels[key]}{given[key]}" for key in labels if given.get(key) is not None]
    for kind in reversed(kinds()):
        if isinstance(before := configuration.get(kind.stage), Mapping):
            choices.append(describe_choices(before))
    return ", ".join(filter(None, choices))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their dotted names; lists stay whole."""
    flat = {}
    for name, value in settings.items():
        is_group = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat


def differences(name: str, value: object, expected: object) -> list[str]:
    """Returns what differs from the expected, as on the command line.

    Nothing does from what a preset leaves open, and from a folder that it names without a place.
    """
    if isinstance(value, Mapping) and isinstance(expected, Mapping):
        each = (differences(f"{name}.{key}", value[key], expected.get(key)) for key in value)
        return [difference for found in each for difference in found]
    is_same = value == expected or expected == REQUIRED
    if isinstance(value, str) and isinstance(expected, str) and "/" not in expected:
        is_same |= value.endswith(f"/{expected}")
    return [] if is_same else [f"{name}={describe_setting(value)}"]


@cache
def compose(experiment: str) -> dict[str, Any]:
    """Returns the configuration of an experiment by its name, with the methods that it chooses.

    Raises a UserError if its files cannot be read.
    """
    # Rarely needed, and slow to import.
    from omegaconf import OmegaConf

    from pipeline.configuration.hydra import compose_config

    config = compose_config([f"experiment={experiment}"])
    chosen = {(method.group, method.settings): method.name for method in methods()}
    composed = OmegaConf.to_container(config, resolve=True)
    for group in {group for group, _ in chosen}:
        composed[group]["method"] = chosen[group, OmegaConf.get_type(config[group])]
    composed["dataset"] = defaults(settings_of(config.dataset.name)) | composed["dataset"]
    return composed


# Several configurations


def identity(configuration: Mapping[str, Any]) -> str:
    """Returns a text that is equal for configurations that differ in nothing but seeds.

    In later rounds of self-training the data of a segmenter follow from the seed as well.
    """
    settings = flatten(configuration)

    def follows_from_seed(name: str) -> bool:
        before, _, last = name.rpartition(".")
        predicted = f"{before}.masks.segmenter."
        return last == "seed" or (last == "data" and any(n.startswith(predicted) for n in settings))

    return canonical_json({n: value for n, value in settings.items() if not follows_from_seed(n)})


def varying(
    configurations: Iterable[Mapping[str, Any]],
    choices: Mapping[str, Values] = {},
    meanings: Mapping[str, Collection[str]] = {},
) -> dict[str, Values]:
    """Returns the settings that differ where they exist, each once, by their dotted names.

    One that has none of :data:`OPTIONAL` differs from one that has it. ``choices`` come first, in
    place of settings that one of them determines and stands for: those that its ``meanings`` name
    by their last part, or by their first, such as "segmenter.".
    """
    flat = [flatten(configuration) for configuration in configurations]
    differing: dict[str, Values] = {}
    for name in dict.fromkeys(name for configuration in flat for name in configuration):
        values = []
        for configuration in flat:
            # A group that is null in some (no CRF) is a value of its own in the others.
            is_group = any(other.startswith(f"{name}.") for other in configuration)
            has_value = name in configuration or is_group
            values.append(canonical_json(configuration.get(name, {})) if has_value else _MISSING)
        is_optional = last_part(name) in OPTIONAL and _MISSING in values
        if len(set(values) - {_MISSING}) > 1 or is_optional:
            differing[name] = values
    kept: dict[tuple[str, ...], str] = {}
    # A stage's settings include those of the stages before it, some of them twice: short names win.
    for name in sorted(differing, key=lambda name: name.count(".")):
        values = differing[name]
        parts = {last_part(name), f"{name.partition('.')[0]}."}
        chosen = (choice for c, choice in choices.items() if not parts.isdisjoint(meanings[c]))
        if not any(_follow(values, [choice]) for choice in chosen):
            kept.setdefault((last_part(name), *values), name)
    found = {**choices, **{name: differing[name] for name in kept.values()}}
    for name in [name for name in found if last_part(name) in _FINGERPRINTS]:
        others = {other: values for other, values in found.items() if other != name}
        if others and _follow(found[name], others.values()):
            found = others
    return found


def distinguish(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns for each configuration the settings in which it differs from any other.

    Its methods, names and seeds, which :func:`describe_choices` gives, are omitted.
    """
    found = varying(configurations)
    settings = {name: values for name, values in found.items() if last_part(name) not in _DESCRIBED}
    return [
        ", ".join(
            f"{short_name(name, settings)}={describe_value(values[i])}"
            for name, values in settings.items()
            if values[i]
        )
        for i in range(len(configurations))
    ]


def describe_value(value: str) -> str:
    """Returns one of the :data:`Values` of a setting as on the command line."""
    return describe_setting(json.loads(value)) if value else "–"


def _follow(values: Values, others: Iterable[Values]) -> bool:
    """Tells whether the values of other settings determine these."""
    causes = list(zip(*others))
    return len(set(zip(causes, values))) == len(set(causes))


def last_part(name: str) -> str:
    """Returns the last part of a dotted name."""
    return name.rpartition(".")[2]


def short_name(name: str, names: Iterable[str]) -> str:
    """Returns the last parts of a dotted name, as few as tell it from all others."""
    parts = name.split(".")
    for first in reversed(range(len(parts))):
        ending = ".".join(parts[first:])
        if sum(f".{other}".endswith(f".{ending}") for other in names) == 1:
            return ending
    return name
