"""The Python configs of mmsegmentation are read where they are named in full."""

from __future__ import annotations

import json
import os
import sys

import pytest
from mmengine.config import Config

from pipeline.errors import UserError
from pipeline.segmenter.mmseg import build_config, find_config
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE, tiny_settings


def build(**changes):
    return build_config(tiny_settings(**changes), CLASS_NAMES, PALETTE, 0)


def test_a_python_config_runs_only_where_it_is_named_in_full(mark, tmp_path, monkeypatch):
    path = tmp_path / "evil.py"
    path.write_text(mark.program)
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


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_configs_that_look_like_data_are_not_read(suffix, mark, tmp_path, monkeypatch):
    """mmengine reads YAML with a loader that runs code, and JSON that imports modules."""
    path = tmp_path / f"config{suffix}"
    if suffix == ".json":
        (tmp_path / "evil_import.py").write_text(mark.program)
        monkeypatch.syspath_prepend(tmp_path)
        path.write_text(json.dumps({"custom_imports": {"imports": ["evil_import"]}, "model": {}}))
    else:
        path.write_text(f"model: !!python/object/apply:os.mkdir [{mark.path}]\n")
    assert mark.is_left_by(lambda: Config.fromfile(path))
    sys.modules.pop("evil_import", None)
    with pytest.raises(UserError, match=r"which end in \.py"):
        build(config=str(path))
    assert not mark.is_left


def test_overrides_of_a_network_reach_no_file_and_no_module(mark, tmp_path, monkeypatch):
    (tmp_path / "evil_override.py").write_text(mark.program)
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
    with pytest.raises(UserError, match="optimizer=evil_override.made is unknown: .*choose from"):
        build(optimizer="evil_override.made")
    assert "evil_override" not in sys.modules
