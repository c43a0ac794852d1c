"""The experiments of the leaderboard and the studies: what they run, on what, and to their end."""

from __future__ import annotations

from functools import cache
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.clip.image_text import releases
from pipeline.commands.composition import compose_jobs
from pipeline.configuration.registry import methods
from pipeline.stages.config import compose

pytestmark = pytest.mark.usefixtures("ours_alone")

SWEPT = {
    "leaderboard": {"tags", "cams", "cams.affinity", "masks"},
    "leaderboard_tags": {"tags"},
    "leaderboard_cams": {"cams", "cams.affinity"},
    "leaderboard_masks": {"masks"},
}
"""The axes of methods, of which each takes all; leaderboard_clip names models."""

OTHERWISE = {"tags=file", "cams=file", "masks=file", "masks=dense", "masks=ground_truth"}
"""Methods that need no photographs or no tags."""


@cache
def sweep_of(name: str) -> list[list[str]]:
    """Returns the overrides of every run of an experiment that is a multirun, but for its name.

    The experiment alone is composed, not its runs.
    """
    compose, composed = hydra.compose, []

    def compose_first(*given: Any, **options: Any) -> DictConfig:
        composed.append(OmegaConf.create({"hydra": {}}) if composed else compose(*given, **options))
        return composed[-1].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "compose", compose_first)
        jobs = compose_jobs([f"experiment={name}"])
    return [[o for o in job if not o.startswith("experiment=")] for _, job in jobs]


@pytest.mark.parametrize("name", SWEPT)
def test_the_leaderboard_runs_every_method_once_a_combination(name):
    runs = sweep_of(name)
    found = {override for run in runs for override in run}
    assert len({tuple(run) for run in runs}) == len(runs)
    assert all({o.partition("=")[0] for o in run} == SWEPT[name] for run in runs)
    alone = [m for m in methods() if not (m.uses_clip and m.settings.needs_more())]
    wanted = {f"{m.group}={m.name}" for m in alone}
    wanted = {choice for choice in wanted - OTHERWISE if choice.partition("=")[0] in SWEPT[name]}
    # Image labels that are given are a yardstick, and masks=argmax is the CRF without a CRF.
    beside = {"tags=ground_truth"} if name == "leaderboard" else set()
    if name == "leaderboard_masks":
        beside = {"masks=argmax"}
    expected = wanted ^ beside
    if "cams.affinity" in SWEPT[name]:
        expected |= {"cams.affinity=True", "cams.affinity=False"}
    assert found == expected


def test_the_leaderboard_of_models_takes_one_of_each_kind():
    chosen = [compose(job) for job in sweep_of("leaderboard_clip")]
    assert all(len(job) == 1 for job in sweep_of("leaderboard_clip"))
    ours = {n for n, model in releases().items() if model.module.startswith("pipeline.")}
    ours -= {name for name, model in releases().items() if model.terms}  # on request
    clips = {"ViT-B-16-quickgelu", "ViT-L-14-quickgelu"}
    assert {config.clip.model for config in chosen} == {*clips, *ours}


@pytest.mark.parametrize("dataset", ["demo_crowded", "voc2012", "voc2007"])
def test_the_leaderboard_is_of_any_data_set_by_one_override(dataset):
    splits = {"demo_crowded": "report", "voc2012": "val", "voc2007": "test"}
    given = [] if dataset == "demo_crowded" else [f"dataset={dataset}", "dataset.root=/here"]
    for name in (*SWEPT, "leaderboard_clip"):
        config = compose([f"experiment={name}", *given])
        product = name == "leaderboard"
        expected = {"dataset.name": dataset, "dataset.split": splits[dataset]}
        expected |= {"dataset.limit": 100 if product else None}
        folder = f"outputs/leaderboard/{dataset}" if product else f"outputs/{dataset}"
        assert config.output_dir == folder
        assert {key: OmegaConf.select(config, key) for key in expected} == expected
