"""``help KEY``, and what ``--help`` lists."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pipeline.commands import settings_help
from pipeline.commands.settings_help import described_choices, described_settings
from pipeline.configuration import hydra
from pipeline.configuration.hydra import choices
from pipeline.configuration.registry import methods
from pipeline.configuration.removed import REMOVED_KEYS
from pipeline.stages import config
from pipeline.stages.config import all_settings
from tests import REPOSITORY


@pytest.fixture
def helped(run_tool, monkeypatch):
    """Returns a function that prints help in a terminal of some width."""

    def helped(*words: str, width: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        finished = run_tool("run_stage.py", *words)
        assert finished.code == 0 and not finished.errors
        return finished.output

    return helped


@pytest.fixture
def without_plugins(monkeypatch):
    """Hides the methods of plug-ins that other tests have imported."""

    def ours(group: str = "") -> list:
        return [method for method in methods(group) if method.is_ours]

    for module in (settings_help, hydra, config):
        monkeypatch.setattr(module, "methods", ours)


@pytest.mark.usefixtures("without_plugins")
def test_a_setting_has_meaning_type_range_default_and_what_it_computes_anew(helped):
    text = helped("help", "tags.alpha")
    first = text.partition("\n\n")[0].splitlines()
    assert first[0] == "tags.alpha=0.5" and "θ_img" in first[1]
    assert first[2].split() == ["float;", "at", "least", "0", "and", "at", "most", "1"]
    assert {"clip", "tagclip"} <= {*re.findall(r"\w+", first[3])}
    assert first[-1].endswith("computes anew: tags and later stages")
    assert "tags.alpha=0.2" in text, "the default of PIAA"
    text = helped("help", "runtime.device", "seed=3")
    assert "runtime.device=auto" in text and "anew: nothing (" in text
    assert "\nseed=0\n" in text and "anew: train and later stages" in text


@pytest.mark.usefixtures("without_plugins")
def test_a_group_has_its_choices_and_settings(helped):
    text = helped("help", "tags")
    assert re.search(r"^  tags: .*\bclip, .*\bfile, ", text, re.MULTILINE)
    heads = re.findall(r"^(tags\.[\w.]+)(?:=|$)", text, re.MULTILINE)
    assert {*heads} == {s.key for s in all_settings() if s.key.startswith("tags.")}
    assert "report.images=200" in helped("help", "report")
    assert "cls_seg_voc2012" in helped("help", "experiment")


def test_a_choice_has_its_settings_and_a_preset_its_file(helped):
    text = helped("help", "masks=crf")
    assert "masks.crf.iterations=10" in text and "Krähenbühl" in text
    assert "masks.dilations" not in text, "another refiner's"
    assert "confidence: 0.95" in helped("help", "masks=crf_confident")
    assert "split: val" in helped("help", "experiment=cls_seg_voc2012")
    preset, method, of_all = helped("help", "experiment=sclip_voc21").split("# @package")[1:]
    assert "min_area: 0.1" in preset and "/cams: sclip" in method and "split: val" in of_all
    assert "cams.second.model=dino_vitb16" in helped("help", "cams=lposs")
    assert "cams.second.model=dino_vitb8" in helped("help", "cams=proxyclip")


def test_settings_within_a_setting_come_with_it(helped):
    heads = re.findall(r"^(masks\.\S+)", helped("help", "masks.crf"), re.MULTILINE)
    assert heads[0] == "masks.crf" and "masks.crf.gaussian_sxy=1" in heads
    assert all(head.startswith("masks.crf") for head in heads)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("tags.min_scor", "tags.min_score"),
        ("tgs", "tags"),
        ("sede", "seed"),
        ("masks=crff", "crf"),
        ("masks.crf.iteration", "masks.crf.iterations"),
        ("dataset.cache", REMOVED_KEYS["dataset.cache"]),
    ],
)
def test_what_is_unknown_is_one_sentence_with_the_nearest(run_tool, word, named):
    finished = run_tool("run_stage.py", "help", word)
    assert finished.code == 2 and not finished.output
    assert finished.errors.count("\n") == 1
    assert word in finished.errors and named in finished.errors.replace(word, "", 1)


@pytest.mark.parametrize("width", [50, 72, 140])
def test_help_is_as_wide_as_the_terminal(helped, width):
    for text in (helped("help", "clip", width=width), helped("help", "experiment", width=width)):
        lengths = [len(line) for line in text.splitlines()]
        assert width - 25 < max(lengths) <= width
    listed = helped("--help", width=width).partition("\nchoices")[2].partition("\n\n")[0]
    assert max(map(len, listed.splitlines()[1:])) <= width


def test_experiments_are_grouped_by_publication(helped):
    lines = [line.strip() for line in helped("--help", width=400).splitlines()]
    publications = ("cls_seg", "clip_es", "sclip", "corrclip", "trident")
    for name in publications:
        names = sorted(n for n in choices()["experiment"] if n.startswith(f"{name}_"))
        assert len(names) > 1 and ", ".join(names) in lines
    [others] = [line for line in lines if line.startswith("alpha, ")]
    assert not any(name.startswith("_") for name in choices()["experiment"])
    assert "leaderboard" in others and not re.search("_(voc|coco|ade|context|city)", others)


def test_the_help_lists_the_options_and_names_what_is_hard_to_find(helped):
    text = helped("--help")
    options = text.partition("\noptions\n")[2].partition("\n\n")[0]
    for option in ("help KEY", "-m", "--config-dir", "--cfg", "--version", "--help"):
        assert re.search(rf"^  .*{option}", options, re.MULTILINE), option
    for name in ("plugins=", "masks=file", "tags.corrections", "rounds"):
        assert re.search(rf"^  .*{re.escape(name)}", text, re.MULTILINE), name
    groups = {each.group for each in described_choices()} - {""}
    listed = text.partition("\ngroups with settings")[2]
    assert groups <= {*re.findall(r"\w+", listed)}
    root = [s.key for s in all_settings() if "." not in s.key and s.key not in groups]
    assert {*root} <= {*re.findall(r"\w+", listed)}


def test_the_methods_of_a_plug_in_have_help(helped, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    text = helped("help", "plugins=[tests.plugins.colour_tagger]", "tags=colour")
    assert "tags.min_score=" in text


@pytest.mark.usefixtures("without_plugins")
def test_each_setting_of_each_choice_is_described():
    """An entry has a meaning, and its choices are those that have the setting."""
    for choice in described_choices():
        own = described_settings([choice])
        assert [entry.key for entry in own if not entry.meaning] == []
        names = {f"{choice.group}.{f.name}" for f in dataclasses.fields(choice.settings)}
        assert not choice.group or names <= {entry.key for entry in own}
