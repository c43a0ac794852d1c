"""Composes each choice of groups once a process, since most tests compose a configuration.

Hydra takes ten times as long as a copy takes. What a command line sets beyond its choices is set
by Hydra, in the copy. With a folder of a user's own, files of ours alone are read once.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig

from pipeline.configuration.registry import methods, quirks
from pipeline.files.shipped import CONFIGS

Plugins.instance()  # registers what reads files
_sources = [SourcesRegistry.instance().resolve(scheme) for scheme in ("file", "pkg")]
_loads = {source: source.load_config for source in _sources}
_compose = hydra.compose
_composed: dict[tuple, bytes] = {}
_read: dict[tuple[str, str], bytes] = {}
_parse = OverridesParser.parse_rule
_parsed: dict[tuple[str, str], Any] = {}


def load_once(source: ConfigSource, config_path: str) -> ConfigResult:
    """Does what Hydra does to read a file, once for each of ours and of Hydra's own."""
    key = source.path, config_path
    if source.path not in (str(CONFIGS), "hydra.conf"):
        return _loads[type(source)](source, config_path)
    if key not in _read:
        _read[key] = pickle.dumps(_loads[type(source)](source, config_path))
    return pickle.loads(_read[key])


def parse_once(parser: OverridesParser, text: str, rule: str) -> Any:
    """Does what Hydra does to parse an override, once for each."""
    if (text, rule) not in _parsed:
        _parsed[text, rule] = _parse(parser, text, rule)
    return deepcopy(_parsed[text, rule])


def compose_once(
    name: str, overrides: Sequence[str] = (), return_hydra_config: bool = False
) -> DictConfig:
    """Does what ``hydra.compose`` does, except that it lists no overrides in ``hydra``."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    parsed = OverridesParser.create().parse_overrides([*overrides])
    if (
        not return_hydra_config
        or any(each.key_or_group == "hydra.searchpath" for each in parsed)
        or any(each.is_sweep_override() or each.is_force_add() for each in parsed)
    ):
        return _compose(name, [*overrides], return_hydra_config)
    choices, values = [], []
    for each in parsed:
        is_choice = loader.repository.group_exists(each.key_or_group)
        (choices if is_choice and not isinstance(each.value(), dict) else values).append(each)
    chosen = [each.input_line for each in choices]
    theirs = [m for m in methods() if not m.is_ours]
    theirs = [m for m in theirs if m.presets or f"{m.group}={m.name}" in chosen]
    paths = (path.path for path in loader.get_search_path().get_path())
    key = (name, *sorted(chosen), *(m.settings for m in theirs), *quirks().values(), *paths)
    if key not in _composed:
        try:
            _composed[key] = pickle.dumps(_compose(name, [*chosen], return_hydra_config))
        except (pickle.PicklingError, AttributeError):  # the settings of a method within a test
            return _compose(name, [*overrides], return_hydra_config)
    config = pickle.loads(_composed[key])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def remember_compositions() -> None:
    """Puts these in Hydra's place, for as long as the process lasts."""
    hydra.compose, OverridesParser.parse_rule = compose_once, parse_once
    for source in _sources:
        source.load_config = load_once
    # Each loader of Hydra's copies all that is registered; what it takes, it copies again.
    ConfigStore.__deepcopy__ = lambda self, _: self
