"""The typed configuration and the YAML files that show it."""

from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline.segmenter.settings import SegmenterSettings
from pipeline.stages.config import Config, compose, read_config
from tests import REPOSITORY

FOLDER = ["dataset=folder", "dataset.root=photographs", "dataset.classes=[cat]"]


def default_of(declared: Field) -> Any:
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def disagreements(settings: Any, shown: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the keys whose value in YAML is not the default in Python: both values."""
    found = {}
    for declared in fields(settings):
        value, default = shown.get(declared.name, MISSING), default_of(declared)
        if MISSING in (value, default) or (isinstance(value, str) and "${" in value):
            continue
        if is_dataclass(default) and isinstance(value, dict):
            inner = disagreements(default, value)
            found |= {f"{declared.name}.{name}": both for name, both in inner.items()}
        elif value != default:
            found[declared.name] = (value, default)
    return found


@pytest.mark.parametrize("group", ["", "dataset", "images", "report", "runtime", "self_training"])
def test_defaults_in_config_yaml_are_those_in_python(group):
    shown = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs/config.yaml"))
    settings = read_config(compose(FOLDER))
    if group:
        settings, shown = getattr(settings, group), shown[group]
    assert {declared.name for declared in fields(settings)} & {*shown}
    assert disagreements(settings, shown) == {}


def test_defaults_of_every_segmenter_are_those_in_python():
    shown = OmegaConf.load(REPOSITORY / "configs/segmenter/default.yaml")
    shown = OmegaConf.to_container(shown)
    assert {declared.name for declared in fields(SegmenterSettings)} == {*shown}
    assert disagreements(SegmenterSettings, shown) == {}


def test_every_key_of_config_yaml_is_declared():
    shown = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs/config.yaml"))
    groups = {"dataset", "executor", "clip", "compat", "tags", "cams", "masks", "segmenter"}
    declared = {declared.name for declared in fields(Config)}
    assert declared - groups <= {*shown} - {"defaults", "hydra"} <= declared
