"""A user's own configurations, in a folder that the command line names: data that runs no code.

Hydra runs the ``_target_`` of its callbacks and launchers, sets environment variables and opens log
files before a job starts. Hence every composed configuration is checked first, those of a multirun
as well, whatever files it was composed from. What can name code, an address or a command is checked
in each file, and in what a file makes Hydra add to the command line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from tempfile import TemporaryDirectory
from typing import Any

import hydra._internal.hydra as hydra_program
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from pipeline.commands.command_line import Parser
from pipeline.engine.configuration import PLUGINS, explained, readable
from pipeline.errors import UserError, as_started, shown
from pipeline.stages.config import all_settings

_FREE = ("mode", "sweep.dir", "sweeper.params")
"""The keys of Hydra that a file may set, as the studies in ``configs/experiment`` do."""

_MADE_BY_HYDRA = ("overrides", "runtime", "job.override_dirname", "job.config_name")

_USERS = "command-line"
"""What Hydra calls the provider of the folder that --config-dir names."""

_FORBIDDEN = ("config_path", "config_name", "experimental_rerun")
"""Hydra's options that replace our configuration as a whole."""


@contextmanager
def checked_configurations(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Within the block, Hydra composes only configurations in which no file makes it run anything.

    ``arguments`` are those of the command line, whose own keys of Hydra are obeyed. Yields them as
    Hydra's grammar can read them.

    Raises:
        UserError: the arguments replace the configuration as a whole, lead to further folders, or
            cannot be read.
    """
    parser = get_args_parser()
    parser.error = partial(Parser.error, parser)
    given, unknown = parser.parse_known_args(list(arguments))
    if wrong := [each for each in unknown if each.startswith("-")]:
        raise UserError(f"unknown option {shown(wrong[0])}: give settings as KEY=VALUE; see --help")
    for option in _FORBIDDEN:
        if getattr(given, option) is not None:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is not allowed: name a folder with --config-dir")
    overrides = readable(given.overrides)
    typed = OverridesParser.create().parse_overrides(overrides)
    if any(each.key_or_group.startswith("hydra.searchpath") for each in typed):
        raise UserError("hydra.searchpath is not allowed: name one folder with --config-dir")
    hydra_program.ConfigLoaderImpl = partial(_CheckedLoader, typed)
    # Hydra's parser takes overrides only in one place.
    first = arguments.index(given.overrides[0]) if given.overrides else 0
    before, after = arguments[:first], arguments[first + len(given.overrides) :]
    try:
        yield [*before, *overrides, *after]
    finally:
        hydra_program.ConfigLoaderImpl = ConfigLoaderImpl


class _CheckedLoader(ConfigLoaderImpl):
    """Composes configurations for Hydra, and refuses those that are more than data."""

    _scratch = cached_property(lambda _: TemporaryDirectory())  # removed in the end

    def __init__(self, typed: Sequence[Override], config_search_path: ConfigSearchPath):
        super().__init__(config_search_path)
        self._own = [each.input_line for each in typed if each.is_hydra_override()]
        # A value that refers to another key may be a file's.
        self._typed = [each for each in typed if "${" not in each.input_line]

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        resolvers, BaseContainer._resolvers = BaseContainer._resolvers, {}
        try:  # a list of defaults could call resolvers
            load = partial(super().load_configuration, config_name)
            config = explained(lambda given: load(given, *args, **kwargs), overrides)
        except KeyError as error:
            raise UserError(f"hydra.job.env_copy: there is no variable {error}") from error
        finally:
            BaseContainer._resolvers = resolvers
        of_shell = {each.get_key_element() for each in self._typed}
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.get_key_element() not in of_shell:  # a parameter of a file's sweep
                _refuse_code(override.value(), override.key_or_group)
        plain = OmegaConf.to_container(config)
        given = plain["hydra"]["overrides"]
        if sorted(given["hydra"] + given["task"]) != sorted(overrides):
            raise _refusal("overrides")
        free = [_pop(plain["hydra"], key) for key in _FREE]
        found = _without(plain.pop("hydra"), _MADE_BY_HYDRA)
        if any(part.provider == _USERS for part in self.config_search_path.get_path()):
            _refuse_difference(found, self._ours)
        _refuse_resolvers({**plain, "hydra": free})
        if config.get("dry_run"):  # Hydra writes down what a multirun consists of
            config.hydra.sweep.dir = self._scratch.name
        shown_by_help = config.hydra.help
        shown_by_help.template = as_started(shown_by_help.template)
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        if OmegaConf.is_dict(loaded.config) and loaded.config.get("hydra", {}) is None:
            raise _refusal("*")
        # A path that climbs, or an absolute one, is a file of any folder, whoever is its provider.
        if loaded.provider == _USERS or re.search(r"\.\.|^/", default.config_path):
            typed = {each.key_or_group for each in self._typed if not each.is_delete()}
            _refuse_code(OmegaConf.to_container(loaded.config), typed=typed)
        return loaded

    @cached_property
    def _ours(self) -> dict[str, Any]:
        """What ``hydra`` holds without a user's folder."""
        path = self.config_search_path.get_path()
        ours = ConfigSearchPathImpl()
        ours.config_search_path = [part for part in path if part.provider != _USERS]
        loaded = ConfigLoaderImpl(ours).load_configuration("config", self._own, RunMode.RUN)
        return _without(OmegaConf.to_container(loaded)["hydra"], [*_FREE, *_MADE_BY_HYDRA])


def _refuse_code(settings: Any, group: str = "", typed: Collection[str] = ()) -> None:  # noqa: ANN401
    """Refuses values that can name code, an address or a command, of keys that are not typed."""
    restricted = {PLUGINS: ""} | {
        key: rule.file_values for key, rule, _ in all_settings() if rule.file_values is not None
    }
    for key, value in _leaves(settings, group):
        for name, allowed in restricted.items():
            is_below = f"{key}.".startswith(f"{name}.") and key not in typed
            refers = f"{name}.".startswith(f"{key}.") and "${" in str(value)
            is_harmless = value is None or re.fullmatch(allowed, str(value))
            if refers or (is_below and not is_harmless):
                raise UserError(
                    f"a file of settings cannot name code: give {key}=… in full on the command line"
                )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yields the key and the value of everything in nested mappings that is not a mapping."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def _pop(node: dict[str, Any], key: str) -> Any:  # noqa: ANN401
    """Removes and returns what a mapping holds under a key such as "sweep.dir"."""
    *groups, last = key.split(".")
    for group in groups:
        node = node[group] or {}
    return node.pop(last, None)


def _without(node: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        _pop(node, key)
    return node


def _refuse_difference(found: Any, ours: Any, key: str = "") -> None:  # noqa: ANN401
    if isinstance(found, dict) and isinstance(ours, dict):
        for name in found.keys() | ours.keys():
            _refuse_difference(found.get(name), ours.get(name), f"{key}.{name}".lstrip("."))
    elif found != ours:
        raise _refusal(key)


def _refusal(key: str) -> UserError:
    return UserError(
        f"a configuration file sets hydra.{key}, but a file is data and decides nothing about what"
        " Hydra runs, logs or writes: remove it"
    )


def _refuse_resolvers(node: Any, key: str = "") -> None:  # noqa: ANN401
    """Refuses values such as ${oc.env:HOME}; ${dataset.name} is another key's value."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            _refuse_resolvers(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, str) and "${" in node and _calls_resolver(parse(node)):
        raise UserError(
            f"{key}={shown(node)} calls a resolver of OmegaConf: write the value itself"
        )


def _calls_resolver(tree: Any) -> bool:  # noqa: ANN401
    is_call = isinstance(tree, OmegaConfGrammarParser.InterpolationResolverContext)
    return is_call or any(map(_calls_resolver, getattr(tree, "children", None) or ()))
