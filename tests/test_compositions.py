"""What tests remember of compositions is what Hydra composes."""

from __future__ import annotations

from dataclasses import dataclass

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import pipeline.stages.config  # noqa: F401  which stores the defaults
from pipeline.configuration import registry
from pipeline.configuration.hydra import composing, for_hydra
from pipeline.configuration.registry import Quirk, register
from pipeline.errors import UserError
from pipeline.tags.tagger import ScoredTagOptions
from tests import compositions


def composed(*overrides: str) -> object:
    """Returns what is composed but for what Hydra says of itself, or the sentence of an error."""
    try:
        with composing() as (compose, _):
            config = compose(for_hydra(overrides))
    except UserError as error:
        return str(error)
    found = OmegaConf.to_container(config)
    return found, found.pop("hydra")["sweeper"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("dataset=demo", "seed=7", "tags.alpha=0.3", "+segmenter.overrides.x.y=1"),
        ("experiment=leaderboard_tags", "~dataset.limit"),
        ("dataset=demo", "tags.alhpa=0.3"),
        ("dataset=demo", "tags=tagcilp", "seed=x"),
        ("masks=argmax", "dataset=demo", "masks.crf={a: [1, b]}", "cams=clip_es"),
        ("cams=clip_es", "dataset=demo", "masks=argmax", "tags=tagclip", "tags=clip"),
    ],
)
def test_a_remembered_composition_is_hydras(overrides, monkeypatch):
    remembered = composed(*overrides), composed(*overrides)
    monkeypatch.setattr(hydra, "compose", compositions._compose)
    monkeypatch.setattr(OverridesParser, "parse_rule", compositions._parse)
    for source, load in compositions._loads.items():
        monkeypatch.setattr(source, "load_config", load)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
    assert remembered == (composed(*overrides),) * 2


@dataclass
class One(ScoredTagOptions):
    gain: int = 1


@dataclass
class Two(ScoredTagOptions):
    gain: int = 2


def test_a_remembered_composition_knows_the_methods_and_quirks_of_now(monkeypatch, request):
    stored = ConfigStore.instance().repo["tags"]
    request.addfinalizer(lambda: stored.pop("mine.yaml"))
    before = composed("dataset=demo")[0]
    for kind in (One, Two):
        monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
        registry._METHODS.pop(("tags", "mine"), None)
        register("tags", "mine", kind, quirks=[Quirk("dim", "dims")])(lambda *_: None)
        assert composed("dataset=demo", "tags=mine")[0]["tags"]["gain"] == kind.gain
        compat = composed("dataset=demo")[0]["compat"]
        assert compat.keys() - before["compat"].keys() == {"dim"}
