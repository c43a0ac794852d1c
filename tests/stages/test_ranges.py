"""Every number of the configuration is checked by its declaration, before anything runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass, make_dataclass
from typing import Any, get_args, get_type_hints

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.configuration.hydra import explain
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import check, rule_of
from pipeline.datasets import READERS
from pipeline.errors import UserError
from pipeline.stages.config import EXECUTORS, Config, compose, read_config

READER_OF = {settings: name for name, (_, settings) in READERS.items()}
CHOICES = {
    "executor": ("local", "processes", "dask"),
    "dataset": tuple(READER_OF.values()),
    **{group: tuple(m.name for m in methods() if m.group == group) for group in ("cams", "masks")},
    "tags": ("tagclip", "clip", "ground_truth", "file"),
}
Root = make_dataclass(
    "Root", [(f.name, int, f) for f in fields(Config) if f.name in ("rounds", "seed")]
)
TRIED = (-1, 0, 1.5, math.nan, math.inf, -math.inf, 10**12, None, "many", [], True)


def chosen(group: str, name: str) -> Any:
    """Returns the settings of a choice. Those of a method are composed in test_config.py."""
    if group == "dataset":
        needed = ["dataset.root=.", *["dataset.classes=[a]"] * (name == "folder")]
        return read_config(compose([f"dataset={name}", *needed])).dataset
    kinds = EXECUTORS | {m.name: m.settings for m in methods() if m.group == group}
    return kinds[name](**{"path": "given"} if name == "file" else {})


def numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, Field, Any]]:
    """Yields the key, the declaration and the type of every number in settings."""
    hints = get_type_hints(type(settings))
    for declared in fields(settings):
        value, key = getattr(settings, declared.name), f"{prefix}.{declared.name}".lstrip(".")
        kind = hints[declared.name]
        kinds = {kind, *get_args(kind), *(k for part in get_args(kind) for k in get_args(part))}
        if is_dataclass(value):
            yield from numbers(value, key)
        elif kinds & {int, float}:
            yield key, declared, kind


def refusal(typed: DictConfig, key: str, value: Any) -> str | None:
    """Returns why a value is refused, as :func:`read_config` would; none if it is accepted."""
    before, group = copy.deepcopy(OmegaConf.select(typed, key)), key.rpartition(".")[0]
    try:
        OmegaConf.update(typed, key, value)
        check(OmegaConf.to_object(OmegaConf.select(typed, group) if group else typed), group)
    except OmegaConfBaseException as error:
        return explain(error)
    except UserError as error:
        return str(error)
    finally:
        OmegaConf.update(typed, key, before)
    return None


def is_allowed(declared: Field, kind: Any, value: Any) -> bool:
    """Tells whether a value is of the declared type and in the declared range."""
    if isinstance(value, list) != ("list" in str(kind)):
        return value is None and "None" in str(kind)
    rule = rule_of(declared)
    return (len(value) if isinstance(value, list) else 1) in (rule.lengths or range(10)) and all(
        "None" in str(kind)
        if each is None
        else isinstance(each, int | float if "float" in str(kind) else int) and rule.allows(each)
        for each in (value if isinstance(value, list) else [value])
    )


@pytest.mark.parametrize(
    "choice", [f"{g}={name}" for g, names in CHOICES.items() for name in names]
)
def test_every_number_is_in_its_declared_range_or_refused(choice):
    group, _, name = choice.partition("=")
    parts = {group: chosen(group, name)}
    if choice == "executor=local":  # once, what no choice of a group changes
        config = read_config(compose([]))
        groups = ("images", "runtime", "segmenter", "self_training", "report")
        parts |= {group: getattr(config, group) for group in groups}
        parts[""] = Root(rounds=config.rounds, seed=config.seed)
    wrong = []
    for prefix, settings in parts.items():
        typed = OmegaConf.structured(settings)
        typed = OmegaConf.create({prefix: typed}) if prefix else typed
        for key, declared, kind in numbers(settings, prefix):
            rule = rule_of(declared)
            if rule.at_least is None and rule.above is None:
                wrong.append(f"{key} has no declared range")
            several = [[], [[]], [1, 2, 3]] + [[number, number] for number in TRIED]
            for value in [*TRIED, *(several if "list" in str(kind) else [[], [1]])]:
                said = refusal(typed, key, value)
                if said is None and not is_allowed(declared, kind, value):
                    wrong.append(f"{key}={value} is accepted")
                elif said is not None and (not said.startswith(key) or "\n" in said):
                    wrong.append(f"{key}={value}: {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("output_dir=", "output_dir is empty: give it, output_dir=…"),
        ("tags.templates=nope", "tags.templates=nope is unknown: choose from imagenet, "),
        ("tags.variants=nope", "tags.variants is not a list: give tags.variants=[…]"),
        ("runtime.batch_size=1.5", "runtime.batch_size=1.5 is not an integer"),
        ("tags.alpha=nan", "tags.alpha=nan is out of range: give a number at least 0"),
        ("runtime.threads=100000000", "at least 1 and at most 1,024"),
        ("tags.attention_blocks=[1]", "tags.attention_blocks=[1] has 1 values: give 2"),
        ("cams.background_betas=[]", "cams.background_betas=[] has 0 values: give 1 or more"),
        ("dataset.values=[0,256]", "dataset.values=256 is out of range"),
        ("executor=processes executor.threads=0", "executor.threads=0 is out of range"),
        ("executor=dask executor.workers=0", "executor.workers=0 is out of range"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(given, sentence):
    with pytest.raises(UserError) as error:
        read_config(compose(given.split()))
    assert sentence in str(error.value)
