"""Overrides as a person types them, and as Hydra's grammar can read them."""

from __future__ import annotations

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.commands.composition import compose_jobs
from pipeline.configuration.hydra import compose_config, for_hydra
from pipeline.configuration.removed import REMOVED_KEYS
from pipeline.errors import UserError
from pipeline.stages.config import read_config


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["a.b=Fotos (2024), Süd"], "Fotos (2024), Süd"),
        (["a.b=~/photographs"], "~/photographs"),
        (["a.b=x=y"], "x=y"),
        (["a.b=it's"], "it's"),
        (["a.b=a{b"], "a{b"),
        (["a.b=C:\\x y\\"], "C:\\x y\\"),
        (["a.b=[disc,", "square]"], ["disc", "square"]),
        (["a.b=[disc, square (old), it's]"], ["disc", "square (old)", "it's"]),
        (["a.b=[2024] x"], "[2024] x"),
        (["a.b=0.5"], 0.5),
        (["a.b='x y'"], "x y"),
        (["a.b=null"], None),
    ],
)
def test_values_that_the_grammar_refuses_are_quoted(typed, value):
    (text,) = for_hydra(typed)
    assert OverridesParser.create().parse_override(text).value() == value


def test_what_can_be_read_stays_as_it_is():
    typed = ["seed=1,2", "tags.alpha=choice(1,2)", "+x=[a,b]", "~dataset.limit", "clip=vit_b16"]
    assert for_hydra(typed) == typed


def test_a_choice_of_a_users_folder_is_no_hindrance():
    assert for_hydra(["experiment=mine", "output_dir=2024_10"])[1] == "output_dir='2024_10'"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["masks=argmax", "masks.crf.iterations=4"], "is inside one that is null: leave it out"),
        (["masks=regions", "masks.slick.segments=3"], "masks.slick: did you mean masks.slic?"),
        (["cams.affinity=2"], "cams.affinity=2 is neither true nor false: give one of them"),
        (["executor=dask", "executor.cluster.x=3"], r"give \+executor.cluster.x="),
    ],
)
def test_the_part_of_a_key_that_is_wrong_is_named(typed, message):
    with pytest.raises(UserError, match=message):
        compose_config(typed)


@pytest.mark.parametrize("key", ["tags.gian", "masks.crf.gian", "segmenter.gian", "gian"])
def test_a_key_that_is_added_and_nothing_reads_is_refused(key):
    with pytest.raises(UserError, match=f"there is no setting {key}: "):
        read_config(compose_config([f"+{key}=2"]))


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_key_that_went_is_answered_by_what_replaces_it(key, run_stage, tmp_path):
    said = f"there is no setting {key} any more: {REMOVED_KEYS[key]}"
    for typed in (f"{key}=1", f"+{key}=1", f"{key}.deeper=1"):
        with pytest.raises(UserError, match=re.escape(said)):
            read_config(compose_config([typed]))
    group, _, name = key.partition(".")
    preset = tmp_path / "experiment" / "mine.yaml"
    preset.parent.mkdir()
    preset.write_text(f"# @package _global_\n{group}:\n  {name}: 1\n")
    finished = run_stage("--config-dir", tmp_path, "experiment=mine", "dry_run=true")
    assert finished.code == 2 and said in finished.errors


def test_zero_and_one_are_false_and_true():
    assert compose_config(["cams.affinity=0"]).cams.affinity is False


@pytest.mark.parametrize(
    ("typed", "network"),
    [
        ("", "light"),
        ("clip=demo", "light"),
        ("clip=vit_b16", "frozen_clip"),
        ("clip=vit_b16 segmenter.iterations=7", "frozen_clip"),
        ("clip=vit_b16 segmenter=light", "light"),
        ("clip=vit_b16 experiment=segformer", "segformer_b0"),
    ],
)
def test_the_network_of_photographs_is_the_clip_itself_unless_it_knows_ten_drawings(
    typed, network, tmp_path
):
    (tmp_path / "experiment").mkdir()
    choice = "# @package _global_\ndefaults: [{override /segmenter: segformer_b0}]\n"
    (tmp_path / "experiment" / "segformer.yaml").write_text(choice)
    for overrides in (["dataset=folder", *typed.split()], [*typed.split(), "dataset=folder"]):
        [(composed, _)] = compose_jobs(overrides, tmp_path)
        assert composed.segmenter.name == network
    usual = 400 if network == "frozen_clip" else 1000
    assert composed.segmenter.iterations == (7 if "=7" in typed else usual)


def test_a_name_that_reads_as_a_number_stays_as_typed():
    typed = ["output_dir=2024_10", "dataset=folder", "dataset.root=1e3", "runtime.workers=1_0"]
    composed = compose_config([*typed, "seed=1_0", "self_training.confidence=5e-1"])
    assert (composed.output_dir, composed.dataset.root) == ("2024_10", "1e3")
    assert (composed.seed, composed.self_training.confidence) == (10, 0.5)


def test_names_in_a_list_that_read_as_numbers_stay_as_typed():
    names = "[1e3, 2024_10,0.50,7,'a, 1e3, c',b 1e3, {name: 1_0, names: [0x1,.5]}]"
    typed = [
        "dataset=folder",
        "segmenter=demo",
        f"dataset.classes={names}",
        "dataset.split=[2024_10]",
    ]
    strides = "segmenter.overrides.backbone.strides"
    composed = compose_config([*typed, "dataset.backgrounds=[1e3]", f"{strides}=[1_0,1e0]"])
    names = [
        "1e3",
        "2024_10",
        "0.50",
        7,
        "a, 1e3, c",
        "b 1e3",
        {"name": "1_0", "names": ["0x1", ".5"]},
    ]
    assert composed.dataset.classes == names and composed.dataset.split == ["2024_10"]
    assert composed.dataset.backgrounds == ["1e3"], "a list of texts by default"
    assert composed.segmenter.overrides.backbone.strides == [10, 1.0], "a list of numbers"


@pytest.mark.parametrize("several", ["2024_10,1e3", "choice(2024_10,1e3)", "2024_10,'1e3'"])
def test_names_in_a_study_that_read_as_numbers_stay_as_typed(several, tmp_path):
    (tmp_path / "experiment").mkdir()
    text = f'# @package _global_\nhydra: {{sweeper: {{params: {{output_dir: "{several}"}}}}}}'
    (tmp_path / "experiment/mine.yaml").write_text(text)
    typed = [f"output_dir={several}", "self_training.confidence=5e-1,1"]
    for study in (
        compose_jobs(typed, None, True),
        compose_jobs(["experiment=mine", typed[1]], tmp_path, True),
    ):
        jobs = [(config.output_dir, config.self_training.confidence) for config, _ in study]
        assert {name for name, _ in jobs} == {"2024_10", "1e3"}
        assert {number for _, number in jobs} == {0.5, 1}


def test_a_study_is_refused_before_its_first_job():
    with pytest.raises(UserError, match="no_such"):
        compose_jobs(["cams=naclip,no_such"], None, True)


def test_what_presets_build_on_is_no_choice():
    with pytest.raises(UserError, match="no experiment=dense: choose from alpha, ") as error:
        compose_config(["experiment=dense"])
    assert "_dense" not in str(error.value)


@pytest.mark.parametrize("typed", [["x"], ["a=1", "b c"], ["=3"], ["clip=1.5"], ["clip=null"]])
def test_what_is_not_an_override_is_a_sentence(typed):
    with pytest.raises(UserError) as error:
        for_hydra(typed)
    assert "\n" not in str(error.value)
