"""The measured runs: in which order they are read, and what changes them."""

from __future__ import annotations

import json

import pytest

from pipeline.evaluation.about import About, settings_behind
from pipeline.report.tables.runs import MeasuredRun, read_runs
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.datasets import miniatures
from tests.report.measured import voc2007, write_runs


def test_runs_of_several_files_are_numbered_through(tmp_path):
    first = write_runs(tmp_path / "a" / "metrics.json", {}, voc2007(0.1))
    second = write_runs(tmp_path / "b" / "metrics.json", voc2007(0.2), voc2007(0.3))
    assert [run.order for run in read_runs([first, second])[0]] == [0, 1, 2]


def test_a_level_that_was_not_measured_has_no_figure(tmp_path):
    parents = {"levels": [{"map": 0.4}]}
    path = write_runs(tmp_path / "metrics.json", voc2007(0.3), {**voc2007(0.3), **parents})
    runs, _ = read_runs([path])
    assert [[run.value("map", level) for level in (0, 1, 2)] for run in runs] == [
        [0.3, None, None],
        [0.3, 0.4, None],
    ]


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    return miniatures.build_cityscapes(tmp_path_factory.mktemp("sets"))


def changes(root, *given, experiment="sclip_cityscapes", **about):
    """Returns stage → what changes of an experiment, as its figures would have it."""
    places = f"dataset.root={root}", f"output_dir={root / 'nowhere'}", "clip=demo"
    config, found = read_config(compose([f"experiment={experiment}", *places, *given])), {}
    for stage in (each for each in Pipeline.open(config).builder.stages if each.kind.figures):
        settings = json.loads(json.dumps(settings_behind(stage, config)))  # as the file has it
        of = About(experiment, round=str(stage.round) if stage.round > 1 else "", **about)
        run = MeasuredRun(0, stage.name, "val", "", 2, of, {}, settings, {})
        found[stage.name, stage.round] = run.changes()
    return {name: changes for (name, _), changes in found.items()}


def test_what_changes_no_figure_changes_no_experiment(cityscapes):
    assert not any(changes(cityscapes).values())
    selected = "dataset.limit=2", "dataset.split=[train,val]", "dataset.report_split=train"
    others = "seed=3", "runtime.batch_size=4", "compat=clean", "report.images=3", "rounds=1"
    assert not any(changes(cityscapes, *selected, *others).values())
    assert not changes(cityscapes, "cams.affinity=true")["masks"], "dense masks do not read it"


VALUES, NAMES = [*range(19)], [f"name {k}" for k in range(19)]
CHANGING = {
    "images.longest_side=32": "tags cams masks predictions",
    "images.most_patches=9": "tags cams masks predictions",
    f"dataset.values={VALUES}": "tags cams masks predictions",
    "dataset.ignore_background=true": "tags cams masks predictions",
    f"dataset.classes={NAMES}": "tags cams masks predictions",
    f"dataset.cam_names={NAMES}": "cams masks predictions",
    "cams.background_betas=[3]": "cams",
    "masks.names=classes": "masks predictions",
    "masks.temperature=3": "masks predictions",
    "dataset.train_split=val": "predictions",
    "segmenter.iterations=3": "predictions",
    "+segmenter.overrides.pretrained=none": "predictions",
    "segmenter.test.scales=[3]": "predictions",
    "tags.absent_as_zero=true": "tags",
}
"""Settings that change figures → whose."""


def test_a_setting_that_changes_figures_changes_the_experiment(cityscapes):
    found = {}
    for stage, changed in changes(cityscapes, *CHANGING).items():
        for key in (change.partition("=")[0] for change in changed):
            found[key] = f"{found[key]} {stage}" if key in found else stage
    wanted = {given.strip("+").partition("=")[0]: stages for given, stages in CHANGING.items()}
    # A network has the limit of the images, too.
    assert found == {**wanted, "segmenter.most_patches": "predictions"}


@pytest.mark.parametrize(
    ("given", "stages"),
    [("cams=clearclip", "cams masks predictions"), ("segmenter=demo", "predictions")],
)
def test_another_choice_is_named_and_not_all_settings_in_which_it_differs(
    cityscapes, given, stages
):
    every = ["tags", "cams", "masks", "predictions"]
    wanted = {stage: [given] if stage in stages.split() else [] for stage in every}
    assert changes(cityscapes, given) == wanted


def test_corrections_and_later_rounds_change_the_experiment(cityscapes):
    found = changes(cityscapes, "rounds=2", corrections="masks of 3 images")
    assert found["masks"] == ["round=2", "corrections=masks of 3 images"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cams": {"method": "corrclip", "regions": "/data/entityseg_masks"}}, []),
        ({"cams": {"method": "corrclip", "regions": "slic"}}, ["cams.regions=slic"]),
        ({"cams": {"method": "corrclip", "bank": {"own": False}}}, ["cams.bank.own=false"]),
        ({"dataset": {"name": "cityscapes", "image_list": "cocostuff/val.txt"}}, []),
        ({"dataset": {"name": "cityscapes", "masks": "my/own"}}, ["dataset.masks=my/own"]),
        ({"clip": {"name": "vit_b16_metaclip", "model": "RN50"}}, ["clip.model=RN50"]),
        ({"clip": {"name": "vit_l14", "model": "ViT-L-14"}}, []),  # which has a column
    ],
)
def test_paths_do_not_change_what_a_preset_names_or_leaves_open(settings, expected):
    of = About("corrclipv2_cityscapes")
    run = MeasuredRun(0, "cams", "val", "", 2, of, {}, settings, {})
    assert run.changes() == expected
