"""Configurations are data; the Python configs of mmsegmentation are read where they are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from mmengine.config import Config

from pipeline.errors import UserError
from pipeline.segmenter.mmseg import build_config, find_config
from tests import REPOSITORY
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings


def build(**changes):
    return build_config(tiny_settings(**changes), CLASS_NAMES, PALETTE, 0)


def program(mark) -> str:
    """A config of mmsegmentation that leaves a mark when it is read."""
    return f"made = __import__('os').mkdir({str(mark.path)!r})\nmodel = dict(backbone=dict())\n"


def test_a_python_config_runs_only_where_it_is_named_in_full(mark, tmp_path, monkeypatch, trial):
    path = tmp_path / "evil.py"
    path.write_text(program(mark))
    assert mark.is_left_by(lambda: Config.fromfile(path))
    monkeypatch.chdir(tmp_path)
    (root,) = {find_config("fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py").parents[1]}
    climbing = os.path.relpath(path, root)
    assert (root / climbing).is_file()
    for name in ("evil.py", "./evil.py", f"fcn/../{climbing}", climbing):
        with pytest.raises(UserError, match="is not a config of mmsegmentation"):
            build(config=name)
        assert not mark.is_left, name
    # Named in full, it is a program that its owner asked for.
    assert mark.is_left_by(lambda: build(config=str(path)))
    trial("code", "segmenter.config: a Python file by a relative path or with ..", "refused", 4)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_configs_that_look_like_data_are_not_read(suffix, mark, tmp_path, monkeypatch, trial):
    """mmengine reads YAML with a loader that runs code, and JSON that imports modules."""
    path = tmp_path / f"config{suffix}"
    if suffix == ".json":
        (tmp_path / "evil_import.py").write_text(program(mark))
        monkeypatch.syspath_prepend(tmp_path)
        path.write_text(json.dumps({"custom_imports": {"imports": ["evil_import"]}, "model": {}}))
    else:
        path.write_text(f"model: !!python/object/apply:os.mkdir [{mark.path}]\n")
    assert mark.is_left_by(lambda: Config.fromfile(path))
    sys.modules.pop("evil_import", None)
    with pytest.raises(UserError, match=r"which end in \.py"):
        build(config=str(path))
    assert not mark.is_left
    trial("code", f"segmenter.config: {suffix} with code", "refused")


def test_overrides_of_a_network_reach_no_file_and_no_module(mark, tmp_path, monkeypatch, trial):
    (tmp_path / "evil_override.py").write_text(program(mark))
    monkeypatch.syspath_prepend(tmp_path)
    base = str(tmp_path / "evil_override.py")
    imports = {"imports": ["evil_override"], "allow_failed_imports": False}
    assert mark.is_left_by(lambda: Config.fromfile(base))
    tried = [
        {"_base_": base},
        {"custom_imports": imports},
        {"backbone": {"_base_": base, "custom_imports": imports}},
        {"decode_head": {"type": "evil_override.made"}},
        {"backbone": {"init_cfg": {"type": "Pretrained", "checkpoint": base}}},
        {"_base_.custom_imports": imports},
    ]
    for overrides in tried:
        try:
            from pipeline.segmenter.mmseg import build_model

            build_model(build(overrides={**tiny_settings().overrides, **overrides}).model)
        except UserError as error:
            assert "\n" not in str(error)
        assert not mark.is_left and "evil_override" not in sys.modules, overrides
    trial("code", "segmenter.overrides: _base_, custom_imports, dotted types", "nothing ran", 6)


def test_classes_in_yaml_are_data(mark, tmp_path, run_stage, trial):
    path = tmp_path / "classes.yaml"
    (tmp_path / "images").mkdir()
    tags = [
        f"!!python/object/apply:os.mkdir ['{mark.path}']",
        f"!!python/object/new:os.mkdir ['{mark.path}']",
        f"!!python/object/apply:os.system ['mkdir {mark.path}']",
    ]
    for tag in tags:
        path.write_text(f"- cat\n- {tag}\n")
        assert mark.is_left_by(lambda: yaml.unsafe_load(path.read_text())), tag
        finished = run_stage(
            "dataset=folder",
            f"dataset.root={tmp_path / 'images'}",
            f"dataset.classes={path}",
            f"output_dir={tmp_path / 'out'}",
            "stage=tags",
        )
        assert finished.code == 2 and finished.errors.count("\n") == 1, finished.errors
        assert not mark.is_left
    trial("code", "dataset.classes: YAML with Python tags", "exit 2, nothing ran", len(tags))


def test_a_target_in_a_configuration_is_never_called(mark, tmp_path, photographs, run_stage, trial):
    call = {"_target_": "os.mkdir", "path": str(mark.path)}
    assert mark.is_left_by(lambda: instantiate(call))
    text = f"{{_target_: os.mkdir, path: {mark.path}}}"
    places = ["+evil", "+dataset.evil", "+clip.evil", "+segmenter.evil", "+runtime.evil"]
    places += ["segmenter.overrides.backbone", "dataset.training.evil", "tags.evil"]
    for place in places:
        finished = run_stage(
            "dataset=folder",
            f"dataset.root={photographs}",
            "dataset.classes=[cat,dog]",
            "tags=ground_truth",
            f"output_dir={tmp_path / 'out'}",
            f"{place}={text}",
            "stage=tags",
        )
        assert finished.code == 2 and "Traceback" not in finished.errors, finished.errors
        assert not mark.is_left, place
    trial("code", "_target_ in any part of a configuration", "never called", len(places))


def test_resolvers_of_omegaconf_read_and_run_nothing(mark, tmp_path, photographs, run_stage, trial):
    from omegaconf import OmegaConf

    assert mark.is_left_by(lambda: eval(f"__import__('os').mkdir({str(mark.path)!r})"))
    tried = [
        f"${{eval:__import__('os').mkdir('{mark.path}')}}",
        f"${{oc.decode:!!python/object/apply:os.mkdir ['{mark.path}']}}",
        f"${{hydra:runtime.{mark.path.name}}}",
        f"${{python:{mark.path}}}",
    ]
    for text in tried:
        config = tmp_path / "more" / "experiment" / "shared.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        value = {"dataset": {"backgrounds": [text]}}
        config.write_text("# @package _global_\n" + yaml.safe_dump(value))
        finished = run_stage(
            "--config-dir",
            tmp_path / "more",
            "experiment=shared",
            "dataset=folder",
            f"dataset.root={photographs}",
            "dataset.classes=[cat,dog]",
            f"output_dir={tmp_path / 'out'}",
            "stage=tags",
        )
        assert finished.code == 2 and not mark.is_left, (text, finished)
    assert not OmegaConf.has_resolver("eval")
    trial("code", "resolvers in a shared configuration", "exit 2, nothing ran", len(tried))


def test_a_shared_configuration_has_no_callbacks(mark, tmp_path):
    shared = tmp_path / "more" / "experiment" / "shared.yaml"
    shared.parent.mkdir(parents=True)
    callback = {"evil": {"_target_": "os.mkdir", "path": str(mark.path)}}
    shared.write_text("# @package _global_\n" + yaml.safe_dump({"hydra": {"callbacks": callback}}))
    subprocess.run(
        [
            sys.executable,
            REPOSITORY / "tools" / "run_stage.py",
            "--config-dir",
            shared.parents[1],
            "experiment=shared",
            "stage=status",
            f"output_dir={tmp_path / 'out'}",
        ],
        capture_output=True,
        check=False,
    )
    assert not mark.is_left


def test_the_folder_from_which_a_tool_is_started_is_no_place_for_modules(mark, tmp_path, trial):
    """What lies where a person happens to be is data to work on, not modules to import."""
    names = ("yaml", "torch", "mmseg", "hydra_plugins", "sitecustomize", "pipeline", "numpy")
    for name in names:
        Path(tmp_path / f"{name}.py").write_text(f"__import__('os').mkdir({str(mark.path)!r})\n")
    assert mark.is_left_by(lambda: exec((tmp_path / "yaml.py").read_text()))
    done = subprocess.run(
        [
            sys.executable,
            REPOSITORY / "tools" / "run_stage.py",
            "stage=status",
            f"output_dir={tmp_path / 'out'}",
        ],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not mark.is_left
    trial("code", "modules in the working directory", "not imported", len(names))
