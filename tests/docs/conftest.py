"""The settings that there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline.configuration.registry import methods
from pipeline.stages.config import all_settings, compose
from tests import REPOSITORY


@pytest.fixture(scope="module")
def known_keys() -> set[str]:
    """Every key that there is, with any data set and with choices that bring keys of their own."""
    keys: set[str] = set()
    for name in sorted((REPOSITORY / "configs" / "dataset").glob("*.yaml")):
        GlobalHydra.instance().clear()
        config = compose([f"dataset={name.stem}", "executor=slurm"])
        keys |= set(keys_below(OmegaConf.to_container(config)))
    for method in methods():
        settings = OmegaConf.to_container(OmegaConf.structured(method.settings))
        keys |= set(keys_below({method.group: settings}))
    return keys | {declared.key for declared in all_settings()}  # of what is null by default, too


def keys_below(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_below(value, f"{prefix}{key}.")
