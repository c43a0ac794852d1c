"""The configuration of a caller's program: that of ``dataset=folder``, with what it gives."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeGuard

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import UserError, shown
from pipeline.stages.config import Config, compose, read_config


def compose_folder(overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration of ``dataset=folder`` with overrides, as yet without names."""
    return compose(["dataset=folder", "dataset.root=unused", "dataset.classes=[]", *overrides])


def configure(
    classes: Sequence[str] | str, given: Mapping[str, Any], composed: DictConfig
) -> Config:
    """Returns a configuration with class names, and values by their keys (unless None)."""
    if isinstance(classes, bytes) or not isinstance(classes, str | Sequence):
        raise UserError(f"classes={shown(classes)} is not a list of names: give one, or a file")
    composed = deepcopy(composed)
    # Set after composing, since Hydra's grammar restricts what a path or a name may hold.
    for key, value in {**given, "dataset.classes": classes}.items():
        if "${" in str(value):  # the configuration would look it up
            raise UserError(f"{key.rpartition('.')[2]}={shown(value)} holds ${{: leave it out")
        if value is not None:
            OmegaConf.update(composed, key, list(value) if is_list(value) else value)
    return read_config(composed)


def is_list(given: object) -> TypeGuard[Sequence]:
    """Tells whether an argument is a list, a tuple or the like, and not a text."""
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def check_texts(name: str, given: object) -> None:
    """Raises a UserError unless an argument is a list of texts."""
    if not is_list(given) or not all(isinstance(each, str) for each in given):
        raise UserError(f"{name}={shown(given)} is not a list of texts: give {name}=['…']")
