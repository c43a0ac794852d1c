"""The configurations that a command line asks for: one, or each of a study.

Hydra composes them, and does nothing else: it starts no job, opens no log file and calls nothing
that a file names. Files of a user's own, in a folder that ``--config-dir`` names, and presets of
plug-ins are data: a value that can name code, an address or a command is ours, or was typed.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import filterfalse, product
from pathlib import Path

from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict

from pipeline.configuration.hydra import (
    PLUGINS,
    composing,
    for_hydra,
    preset_folders,
    shipped_choices,
)
from pipeline.configuration.registry import methods
from pipeline.errors import UserError, shown
from pipeline.report.tables.configurations import flatten
from pipeline.stages.config import all_settings

# The keys of Hydra that a file may set, as the studies in configs/experiment do.
_FREE = ("mode", "sweeper.params")
_MADE_BY_HYDRA = ("overrides", "runtime", "job.override_dirname", "job.config_name")


def compose_jobs(
    overrides: Sequence[str], folder: Path | None = None, is_study: bool = False
) -> list[tuple[DictConfig, Sequence[str]]]:
    """Returns the configuration of each job that a command line asks for.

    With it comes what it was composed from if it is one of a study, else ().

    Args:
        overrides: its arguments KEY=VALUE.
        folder: holds files of a user's own.
        is_study: whether every combination of several values is a job; a file can say so, too.

    Raises:
        UserError: an argument or a file that cannot be used, or a file that is more than data.
    """
    with composing(folder) as (compose, parse):
        typed = parse(for_hydra(overrides))
        _refuse_hydra(typed)
        several = [each for each in typed if each.is_sweep_override()]
        master = compose([each.input_line for each in typed if each not in several])
        ours = None
        if folder is not None or preset_folders():
            # The same, of those choices alone that come with the package, or with a plug-in.
            known = {**shipped_choices(), "experiment": ()}
            chosen = master.hydra.runtime.choices.items()
            ours = compose([f"{group}={n}" for group, n in chosen if n in known.get(group, ())])
            _refuse_decisions(master, ours)
        jobs: Iterator[Sequence[str]] = iter([()])
        if is_study or "MULTIRUN" in str(master.hydra.mode):
            params = OmegaConf.to_container(master.hydra.sweeper, resolve=True).get("params") or {}
            given = parse(for_hydra([f"{key}={value}" for key, value in params.items()]))
            _refuse_hydra(given)
            keys = {each.key_or_group for each in typed}
            jobs = _combinations([e for e in given if e.key_or_group not in keys] + typed)
        elif several:
            key, _, value = several[0].input_line.partition("=")
            quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
            raise UserError(
                f"{shown(several[0].input_line)} has several values: give -m to run each of them,"
                f" {key}=[…] for a list, or {quoted} for one value"
            )
        composed = []
        for job in jobs:
            config = compose(job) if job else master
            with open_dict(config):
                del config["hydra"]
            if ours is not None:
                _refuse_code(config, ours, typed)
                OmegaConf.to_container(config, resolve=True)  # which no resolver may be part of
            composed.append((config, job))
    return composed


def _combinations(overrides: Sequence[Override]) -> Iterator[Sequence[str]]:
    """Yields every combination of values; of several overrides of a key, the last one counts."""
    values = {}
    for each in overrides:
        key = each.get_key_element()
        values[key] = [each.input_line]
        if each.is_sweep_override():
            if not each.is_discrete_sweep():
                raise UserError(f"{each.input_line} is a range: give its values, as in {key}=1,2")
            # Readable once more, since choice(…) takes quotes away.
            values[key] = for_hydra([f"{key}={value}" for value in each.sweep_string_iterator()])
            if each.value_type is ValueType.GLOB_CHOICE_SWEEP:
                # Presets, which are called after their method, need more than a CLIP as it does.
                names = [f"{m.group}={m.name}" for m in methods() if m.settings.needs_more()]
                more = re.compile(rf"({'|'.join(map(re.escape, names))})(_.*)?").fullmatch
                values[key] = [*filterfalse(more, values[key])]
                if not values[key]:
                    raise UserError(
                        f"{shown(each.input_line)} stands for no choice that runs on every CLIP:"
                        " give those that need more by their names"
                    )
    return product(*values.values())


def _refuse_hydra(overrides: Sequence[Override]) -> None:
    for each in overrides:
        key = each.key_or_group
        if each.is_hydra_override() and not key.startswith(tuple(f"hydra.{k}" for k in _FREE)):
            raise UserError(f"{key} has no effect: Hydra composes settings here, and runs nothing")


def _refuse_decisions(master: DictConfig, ours: DictConfig) -> None:
    """Refuses a file that decides more about Hydra than a file may."""
    free = tuple(f"hydra.{key}." for key in (*_FREE, *_MADE_BY_HYDRA))
    both = (OmegaConf.to_container(composed.hydra) for composed in (master, ours))
    found, expected = (flatten(settings, "hydra.") for settings in both)
    for key in found.keys() | expected.keys():
        if not f"{key}.".startswith(free) and found.get(key) != expected.get(key):
            raise UserError(
                f"a configuration file sets {key}, but a file is data and decides nothing about"
                " what Hydra runs, logs or writes: remove it"
            )


def naming_code() -> dict[str, str]:
    """Returns the settings that can name code, an address or a command → what files may give."""
    rules = {key: rule.file_values for key, rule, *_ in all_settings()}
    return {PLUGINS: ""} | {key: allowed for key, allowed in rules.items() if allowed is not None}


def _refuse_code(config: DictConfig, ours: DictConfig, typed: Sequence[Override]) -> None:
    """Refuses values that can name code, an address or a command, unless ours or typed in full."""
    said = {each.key_or_group for each in typed if each.is_sweep_override()}
    for each in typed:
        # A value that refers to another key may be a file's.
        if not (each.is_delete() or each.is_sweep_override() or "${" in each.input_line):
            said |= flatten({each.key_or_group: each.value()}).keys()
    shipped, restricted = flatten(OmegaConf.to_container(ours)), naming_code()
    for key, value in flatten(OmegaConf.to_container(config)).items():
        for name, allowed in restricted.items():
            is_below = f"{key}.".startswith(f"{name}.") and key not in said
            refers = f"{name}.".startswith(f"{key}.") and "${" in str(value)
            is_harmless = value is None or re.fullmatch(allowed, str(value))
            is_ours = key in shipped and shipped[key] == value
            if not is_ours and (refers or (is_below and not is_harmless)):
                raise UserError(
                    f"a file of settings cannot name code: give {key}=… in full on the command line"
                )
