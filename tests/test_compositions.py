"""What tests remember of compositions is what Hydra composes."""

from __future__ import annotations

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from pipeline.engine.configuration import composing, readable
from pipeline.errors import UserError
from tests import compositions


def composed(*overrides: str) -> object:
    """Returns what is composed but for what Hydra says of itself, or the sentence of an error."""
    try:
        with composing() as (compose, _):
            config = compose(readable(overrides))
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
    ],
)
def test_a_remembered_composition_is_hydras(overrides, monkeypatch):
    remembered = composed(*overrides), composed(*overrides)
    monkeypatch.setattr(hydra, "compose", compositions._compose)
    for source, load in compositions._loads.items():
        monkeypatch.setattr(source, "load_config", load)
    monkeypatch.delattr(ConfigStore, "__deepcopy__")
    assert remembered == (composed(*overrides),) * 2
