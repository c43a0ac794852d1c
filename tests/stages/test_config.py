"""Defaults stand in dataclasses; the YAML files hold choices and differences."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from pipeline.configuration.registry import methods
from pipeline.configuration.settings import defaults
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import UserError
from pipeline.files.shipped import CONFIGS
from pipeline.stages.config import EXECUTORS, Config, compose, read_config

KINDS = {name: kind for name, kind in get_type_hints(Config).items() if is_dataclass(kind)}
CHOICES = {f"{method.group}={method.name}": method.settings for method in methods()}
CHOICES |= {f"executor={name}": settings for name, settings in EXECUTORS.items()}
FILES = [path for group in ("tags", "cams", "masks") for path in (CONFIGS / group).glob("*.yaml")]


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return OmegaConf.to_container(compose(["dataset=folder"]))


def test_every_key_that_is_declared_can_be_given(composed):
    assert {declared.name for declared in fields(Config)} == {*composed}
    for group, kind in {**KINDS, "dataset": DatasetSettings}.items():
        assert {declared.name for declared in fields(kind)} <= {*composed[group]}, group


@pytest.mark.parametrize("group", ["report", "runtime", "self_training"])
def test_what_no_file_gives_has_the_default_of_its_dataclass(group):
    assert OmegaConf.to_container(compose(["dataset=demo"]))[group] == defaults(KINDS[group])


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_without_a_file_has_the_defaults_of_its_dataclass(choice):
    group = choice.partition("=")[0]
    found = OmegaConf.to_container(compose([choice, "dataset=voc2012"]))[group]
    assert found == defaults(CHOICES[choice])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_preset_of_a_method_holds_differences_alone(path: Path):
    given = OmegaConf.to_container(OmegaConf.load(path))
    [base] = [name for name in given.pop("defaults") if name != "_self_"]
    default = defaults(CHOICES[f"{path.parent.name}={base}"])
    assert not {key for key, value in given.items() if default[key] == value}


def test_the_files_that_all_runs_read_repeat_no_default():
    root = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"))
    assert {*root} == {"defaults"}
    segmenter = OmegaConf.to_container(OmegaConf.load(CONFIGS / "segmenter" / "default.yaml"))
    for given in (segmenter.pop("test"), segmenter):
        assert all("${" in value for value in given.values()), "how keys follow from others"


@pytest.mark.parametrize(
    "given",
    [
        "dataset=coco2014 dataset.root=x executor=processes compat=released masks=pamr",
        "dataset=demo clip=demo segmenter=demo runtime.wait=2 segmenter.test.scales=[1,0.5]",
        "dataset=folder dataset.root=x dataset.classes=[a] dataset.limit=3",
        r"dataset=demo experiment_name='\${seed}'",
        "dataset=demo seed='5' report.images='7'",
    ],
)
def test_values_of_their_types_are_read_as_omegaconf_reads_them(given, monkeypatch):
    composed = compose(given.split())
    with monkeypatch.context() as patch:
        if "'" not in given:  # which OmegaConf converts
            patch.delattr(OmegaConf, "unsafe_merge")
        found = read_config(composed)
    monkeypatch.setattr("pipeline.stages.config._typed", Mock(side_effect=TypeError))
    assert repr(read_config(composed)) == repr(found)


@pytest.mark.parametrize(
    "key", ["dry_run", "segmenter.photometric_distortion", "dataset.training.test_flip"]
)
def test_a_number_is_not_taken_for_true(key):
    composed = compose(["dataset=demo"])
    OmegaConf.update(composed, key, 2)
    with pytest.raises(UserError, match=f"^{key}=2 is neither true nor false"):
        read_config(composed)
