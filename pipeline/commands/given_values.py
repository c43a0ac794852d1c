"""Values on the command line that have not the type that their keys ask for."""

from __future__ import annotations

from collections.abc import Mapping

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError, did_you_mean, shown


def refuse_other_types(config: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Makes sure that what is true or false, or a number, by default is so in a configuration.

    Hydra takes any word for a value, and Python most words for true.

    Args:
        config: as it was composed, within Hydra.
        choices: group → the choice that was made.

    Raises:
        UserError: a key has a value of another type.
    """
    # A preset gives values as a person does, so that it is among what is checked.
    groups = [
        f"{group}={choice}"
        for group, choice in choices.items()
        if choice is not None and group != "experiment" and not group.startswith("hydra/")
    ]
    _compare(compose("config", groups), config, "")


def _compare(defaults: DictConfig, given: DictConfig, prefix: str) -> None:
    for name in defaults:
        key = f"{prefix}{name}"
        default, value = _value(defaults, name), _value(given, name)
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _compare(default, value, f"{key}.")
        elif value is None or default is None:
            continue
        elif isinstance(default, bool) and not isinstance(value, bool):
            # Python takes 0 and 1 for these as well.
            if value not in (0, 1):
                hint = did_you_mean(str(value).lower(), ("true", "false"))
                raise UserError(f"{key}={shown(value)} is neither: {hint}give true or false")
        elif isinstance(default, int | float) and isinstance(value, str):
            raise UserError(f"{key}={shown(value)} is no number: give one, as {key}={default}")


def _value(config: DictConfig, name: str) -> object:
    """Returns a value, or none where it is missing or refers to what is."""
    try:
        return None if OmegaConf.is_missing(config, name) else config.get(name)
    except OmegaConfBaseException:
        return None
