"""``config.yaml``: the configuration of the last run in an output directory, written and read."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.datasets import READERS
from pipeline.datasets.settings import VocSettings
from pipeline.errors import UserError
from pipeline.stages.config import (
    CONFIG,
    all_settings,
    compose,
    read_config,
    read_record,
    record,
)


def write(folder: Path, *overrides: str) -> str:
    text = record(read_config(compose([*overrides])))
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return text


@pytest.mark.parametrize("name", [n for n in READERS if n not in ("folder", "coco2017")])
def test_the_data_set_is_read_as_it_was(name, tmp_path):
    root = f"dataset.root={tmp_path}"
    given = [f"dataset={name}", "dataset.limit=3", "dataset.labels=l.csv", root]
    write(tmp_path, *given)
    settings, _ = read_record(tmp_path)
    expected = read_config(compose(given)).dataset
    assert type(settings) is READERS[name][1]
    assert settings == replace(expected, labels=settings.labels)


def test_paths_are_absolute_and_other_texts_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    given = ["dataset=voc2012", "dataset.root=~/VOC", "dataset.labels=null"]
    write(tmp_path, *given)
    settings, _ = read_record(tmp_path)
    assert isinstance(settings, VocSettings)
    assert (settings.root, settings.labels) == ("/home/somebody/VOC", None)
    assert (settings.devkit, settings.image_set) == ("VOC2012", "Segmentation")


WORDS = "name split report_split palette guide train_split devkit image_set label_source"
WORDS += " other_values join tag_names cam_names parents backgrounds"


def test_each_path_of_a_data_set_is_absolute(tmp_path, monkeypatch):
    """Every setting that takes a text is a path, or one of the words above."""
    monkeypatch.chdir(tmp_path)
    readers = [(name, kind) for name, (_, kind) in READERS.items() if name != "demo"]
    kinds = {f.name: (name, f) for name, kind in reversed(readers) for f in fields(kind)}
    kinds_of_text = (str, str | None, Any)
    texts = {key for key, (_, declared) in kinds.items() if declared.type in kinds_of_text}
    recorded = {}
    for key in texts - {*WORDS.split()}:
        given = {"dataset": kinds[key][0], "dataset.root": "r", "dataset.classes": "c.txt"}
        given[f"dataset.{key}"] = "folder/name"
        text = write(tmp_path, *(f"{name}={value}" for name, value in given.items()))
        recorded[key] = yaml.safe_load(text)["dataset"][key]
    assert {*recorded} >= {"root", "classes", "annotations", "sbd_root", "colours"}
    assert {*recorded.values()} == {str(tmp_path / "folder" / "name")}


def test_the_file_names_methods_and_keeps_names_that_yaml_would_change(tmp_path):
    text = write(tmp_path, "dataset=folder", "dataset.root=p", "dataset.classes=['no',1e3]")
    content = yaml.safe_load(text)
    assert content["cams"]["method"] == "clip_es" and content["tags"]["method"] == "tagclip"
    assert content["dataset"]["classes"][0] == "no"
    assert read_record(tmp_path)[1] == {"background_betas": [1], "absent_as_zero": False}
    write(tmp_path, "dataset=demo", "cams=cls_seg_cocostuff")
    assert read_record(tmp_path)[1]["background_betas"] == [None]


def bomb(levels: int) -> str:
    """Returns a YAML mapping of that many lists, each of which names the one before ten times."""
    lines = [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["b0: &b0 [x]", *lines])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "is not as runs write it: run a stage there again"),
        (lambda text: "- 1", "is not as runs write it"),
        (lambda text: "x: [", "correct the file"),
        (lambda text: text.replace("limit: null", "limit: ${oc.env:HOME}"), "is not as runs write"),
        (lambda text: text.replace("limit: null", "limit: ${"), "config.yaml: "),
        (lambda t: t.replace("limit: null", 'limit: "\\x24{oc.env:HOME}"'), "is not as runs write"),
        (lambda text: text.replace("limit: null", "limit: 0"), "dataset.limit=0 is out of range"),
        (lambda text: text.replace("limit: null", "limit: many"), "limit=many is not an integer"),
        (lambda text: text.replace("limit: null", "limmit: 1"), "there is no setting limmit"),
        (lambda text: text.replace("name: demo\n", "name: elsewhere\n", 1), "there is no data set"),
        (lambda text: text.replace("cams:", "camz:"), "is not as runs write it"),
        (lambda text: text.replace("background_betas:", "betas:"), "is not as runs write it"),
        (lambda text: "42", "is not as runs write it"),
        (lambda text: text.replace("masks: null", 'masks: "a\\0b"', 1), "holds a NUL character"),
        (lambda text: text.replace("root: ", 'root: "a\\0b" #', 1), "holds a NUL character"),
        (lambda text: f"{text}{bomb(3)}", "is not as runs write it"),
        (lambda text: bomb(30), "is not as runs write it"),
        (lambda text: "[" * 100_000, "is nested too deeply"),
        (lambda text: f"{text}# {'x' * (1 << 18)}", "holds more than 262144 bytes: run a stage"),
        (lambda text: "x: !!python/object/apply:os.system ['true']", "correct the file"),
    ],
)
def test_a_file_that_no_run_wrote_is_refused_in_a_sentence(tmp_path, change, message):
    text = write(tmp_path, "dataset=demo")
    assert "limit: null" in text
    (tmp_path / CONFIG).write_text(change(text))
    with pytest.raises(UserError, match="(?s).*") as error:
        read_record(tmp_path)
    assert message in str(error.value)


def test_a_file_can_name_no_code():
    """No setting of a data set can, so that nothing of the file has to be refused."""
    settings = [each for each in all_settings() if each.key.startswith("dataset.")]
    assert settings and not [s.key for s in settings if s.rule.file_values is not None]


def test_runs_write_it_and_dry_runs_do_not(run_stage, arguments, photographs, tmp_path):
    path = tmp_path / "out" / CONFIG
    assert run_stage(*arguments, "stage=tags", "dry_run=true").code == 0
    assert not path.exists()
    assert run_stage(*arguments, "stage=tags", "dataset.limit=2").code == 0
    settings, _ = read_record(path.parent)
    assert (settings.root, settings.limit) == (str(photographs), 2)
    before = path.read_bytes()
    assert run_stage(*arguments, "stage=tags", "dry_run=true").code == 0
    assert path.read_bytes() == before
    assert run_stage(*arguments, "stage=cams", "dataset.limit=2", "cams=naclip").code == 0
    assert yaml.safe_load(path.read_text())["cams"]["method"] == "naclip"
