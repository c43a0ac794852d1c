"""On data sets without a background, neither masks nor measurements have one."""

from __future__ import annotations

import json

import pytest
from omegaconf import DictConfig

from pipeline.files.label_images import read_labels
from pipeline.stages.config import compose
from tests import REPOSITORY
from tests.presets import Miniatures
from tests.small_runs import TINY_SEGMENTER
from tests.tiers import large_except


def composed(name: str, *more: str) -> DictConfig:
    return compose([f"dataset={name}", "dataset.root=/here", *more])


def has_background(name: str) -> bool:
    """Tells whether pixels of the ground truth may be background, by the data set's settings."""
    settings = composed(name).dataset
    return not settings.ignore_background and settings.get("other_values") != "ignored"


NAMES = sorted(path.stem for path in (REPOSITORY / "configs/dataset").glob("*.yaml"))
WITHOUT = [name for name in NAMES if not has_background(name)]
REFINERS = ("argmax", "crf", "pamr", "regions", "ground_truth")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Miniatures:
    return Miniatures(tmp_path_factory.mktemp("sets"))


def test_sets_without_a_background_are_found():
    assert {"ade20k", "cocostuff", "cityscapes", "context59"} < {*WITHOUT}
    assert not {"voc2012", "context60", "coco_object", "demo", "folder"} & {*WITHOUT}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cams", ["", "cams=clip_es_voc2012", "cams=sclip"])
def test_a_background_is_scored_exactly_where_there_is_one(name, cams):
    config = composed(name, *filter(None, [cams]))
    betas = {config.masks.beta, *config.cams.background_betas}
    assert betas == {None} if name in WITHOUT else None not in betas


@pytest.mark.parametrize("name", large_except(["cityscapes", "context59"], WITHOUT))
def test_no_stage_makes_a_background(name, sets, run_stage, tmp_path):
    out, given = tmp_path / "out", ["clip=demo", "dataset.limit=2", *TINY_SEGMENTER]
    given += [f"dataset={name}", f"dataset.root={sets.roots[name]}", "dataset.split=[train,val]"]
    given += [f"output_dir={out}", "segmenter.test.scales=[1]", "runtime.workers=1"]

    def run(*more: str) -> dict:
        finished = run_stage(*given, *more)
        assert finished.code == 0, finished.errors
        return json.loads((out / "metrics.json").read_text())["latest"]

    found = run("masks=argmax", "stage=[tags,cams,masks,evaluate]")
    measured = [found[stage]["val"] for stage in ("cams", "masks")]
    assert measured[0]["images"] == 2 and measured[0]["per_class"] == measured[1]["per_class"]
    for refiner in REFINERS:
        run(f"masks={refiner}", "stage=masks")
    run("masks=dense", "masks.names=classes", "cams=sclip", "stage=masks")
    run("rounds=2", "stage=[masks,train]")
    masks = [*out.glob("*/masks/*/**/*.png")]
    keys = {path.relative_to(out).parts[2] for path in masks}
    assert len(keys - {"latest"}) == len(REFINERS) + 2
    assert not [path for path in masks if (read_labels(path) == 0).any()]
