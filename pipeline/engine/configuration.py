"""The configuration as Hydra composes it, and its errors as sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.engine.registry import methods
from pipeline.errors import UserError, did_you_mean, shown

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PLUGINS = "plugins"


def register_groups() -> None:
    """Makes every registered method a choice of its group for Hydra."""
    store = ConfigStore.instance()
    for method in methods():
        store.store(group=method.group, name=method.name, node=method.settings)


def take_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the modules that ``plugins=[…]`` names, and the other arguments.

    Only the command line can name code; in a file, ``plugins`` is refused.

    Raises:
        UserError: what it names is not a list of words.
    """
    names: list[str] = []
    others = []
    for argument in arguments:
        if not re.match(rf"\+*{PLUGINS}=", argument):
            others.append(argument)
            continue
        try:
            value = OverridesParser.create().parse_override(argument).value()
        except HydraException as error:
            raise UserError(explain(error)) from error
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in given):
            raise UserError(f"{shown(argument)} is not a list of modules: give plugins=[NAME]")
        names += given
    return names, others


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration that the command line would compose from these overrides.

    Raises:
        UserError: an unknown key or choice, or a value of another type.
    """
    register_groups()
    # This may happen inside another program of Hydra's, or while an error of ours is explained.
    shared = GlobalHydra.instance()
    before, shared.hydra = shared.hydra, None
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    finally:
        GlobalHydra.instance().hydra = before


def _sentence(key: str, error: OmegaConfBaseException) -> str:
    """Returns what is wrong with the value of a key."""
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return _no_such_key(key, _siblings(key, error))
    text = str(error).splitlines()[0]
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return f"{key} is missing: give it, {key}=…"
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        wanted = {"Integer": "an integer", "Float": "a number"}
        return f"{key}={shown(match[1])} is not {wanted.get(match[2], match[2])}"
    if match := re.match(r"Value '(.*)' is not a valid bool", text):
        hint = did_you_mean(match[1], ("true", "false"))
        return f"{key}={shown(match[1])} is neither true nor false: {hint}give one of them"
    if "is not a ListConfig, list or tuple" in text:
        return f"{key} is not a list: give {key}=[…]"
    return f"{key}: {text}"


def _siblings(key: str, error: BaseException | None) -> list[str]:
    """Returns the keys of the group in which an unknown key was looked for."""
    node = getattr(error, "parent_node", None)
    group, _, _ = key.rpartition(".")
    return [f"{group}.{name}".lstrip(".") for name in node] if node is not None else []


def _no_such_key(key: str, known: Sequence[str]) -> str:
    return (
        f"there is no key {key}: {nearest(key, known)}python tools/run_stage.py --cfg job shows"
        " them all"
    )


def nearest(wrong: str, known: Sequence[str]) -> str:
    """Returns the known key nearest to a wrong one as a question, or ""."""
    last = wrong.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return f"did you mean {elsewhere[0]}? " if elsewhere else did_you_mean(wrong, known)


def _all_keys() -> list[str]:
    """Returns every key of the configuration with its default choices, groups among them."""
    pending: list[tuple[str, Any]] = [("", OmegaConf.to_container(compose_config([])))]
    keys = []
    while pending:
        prefix, node = pending.pop()
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                pending.append((f"{prefix}{name}.", value))
    return keys


def explain(error: Exception) -> str:
    """Returns an error of Hydra or OmegaConf as one sentence with the remedy."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give it, {error.full_key}=…"
    if isinstance(error, AssertionError):  # OmegaConf's, for a key below one that is null
        return f"{text or 'a key'} lies below a key that is null"
    cause = error.__cause__
    if not text and isinstance(cause, Exception):  # Hydra's, around one of OmegaConf's
        return explain(cause)
    match = re.match(r"Error merging override ([^=]+)=", text)
    if match and isinstance(cause, OmegaConfBaseException):
        return _sentence(match[1].lstrip("+~"), cause)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _no_such_key(match[1], [*_siblings(match[1], cause), *_all_keys()])
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return _sentence(error.full_key, error)
    choices = r"Could not find '(\w+)/([^']+)' Available options in '\w+': (.*?) Config search"
    if match := re.search(choices, text):
        group, choice, known = match.groups()
        names = [name for name in known.split() if name != "default"]  # what the others build on
        hint = nearest(choice, names)
        return f"there is no {group}={choice}: {hint}choose from {', '.join(names)}"
    return text
