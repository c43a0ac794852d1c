"""A segmenter's checkpoints: read by predict.py, by export_onnx.py, and to go on training."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.errors import UserError
from pipeline.segmenter.predict import Segmenter
from tests.safety.live_weights import LIVE, state_bomb
from tests.segmenter.tiny_training import (
    tiny_settings,
    train_tiny,
    write_labelled,
    write_pairs,
)
from tests.tiers import large_except

ARCHIVES = [name for name in LIVE if "TorchScript" not in name]


@pytest.fixture(params=["predict.py", "export_onnx.py", "resume"])
def read(request, run_tool, learn, tmp_path) -> Callable[[Path], tuple[int, str]]:
    """Reads a checkpoint in one of three ways; returns exit code and what was said."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")

    def predict(path: Path) -> tuple[int, str]:
        output = ["--output", tmp_path / "out"]
        if request.param == "predict.py":
            ended = run_tool("predict.py", "--checkpoint", path, tmp_path / "a.png", *output)
        else:
            output[1] = tmp_path / "out.onnx"
            ended = run_tool("export_onnx.py", "--checkpoint", path, *output)
        return ended.code, ended.errors

    def resume(path: Path) -> tuple[int, str]:
        work_dir = tmp_path / "work"
        work_dir.mkdir()
        shutil.copy(path, work_dir / "iter_1.pth")
        (work_dir / "last_checkpoint").write_text(str(path))
        try:
            learn(work_dir)
        except UserError as error:
            return 2, f"error: {error}\n"
        return 0, ""

    run = resume if request.param == "resume" else predict
    run.way = request.param
    return run


def own(two_steps: Path) -> dict:
    return torch.load(two_steps / "iter_1.pth", weights_only=True)


@pytest.mark.parametrize("name", large_except(ARCHIVES[:2], ARCHIVES))
def test_no_checkpoint_runs(name, read, two_steps, mark, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write, careless = LIVE[name]
    path = tmp_path / "checkpoint.pth"
    write(path, mark.path, own(two_steps)["state_dict"])
    assert mark.is_left_by(lambda: careless(path)), "it has to be live, or this shows nothing"
    code, said = read(path)
    assert not mark.is_left
    if read.way == "resume" and "zip" not in name and name not in ARCHIVES[-2:]:
        # What is no archive is no complete checkpoint: the training begins anew.
        assert code == 0
    else:
        assert code == 2 and said.count("\n") == 1 and "checkpoint" in said, said


def test_a_checkpoint_that_would_take_memory_without_end(read, tmp_path):
    path = tmp_path / "checkpoint.pth"
    state_bomb(path)
    code, said = read(path)
    assert code == 2 and said.count("\n") == 1, said


def test_the_program_that_mmengine_keeps_in_checkpoints_is_not_run(
    two_steps, learn, mark, tmp_path
):
    """mmengine runs ``meta["config"]`` when it resumes."""
    from mmengine.config import Config

    program = f"made = __import__('os').mkdir({str(mark.path)!r})\ngpu_ids = [0]\n"
    assert mark.is_left_by(lambda: Config.fromstring(program, ".py"))
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    checkpoint = own(two_steps)
    checkpoint["meta"] |= {"config": program, "cfg": program}
    torch.save(checkpoint, work_dir / "iter_1.pth")
    learn(work_dir)
    Segmenter.from_run(work_dir / "iter_1.pth")
    assert not mark.is_left


def test_programs_in_the_folder_of_a_run_are_not_run(two_steps, learn, run_tool, mark, tmp_path):
    program = f"import os\nos.mkdir({str(mark.path)!r})\n"
    assert mark.is_left_by(lambda: exec(program))
    work_dir = Path(shutil.copytree(two_steps, tmp_path / "work"))
    (work_dir / "iter_2.pth").unlink()
    names = ("config", "mmseg_config", "deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512", "work")
    names += ("mmseg", "mmcv", "torch", "sitecustomize", "__init__", "conftest")
    for name in names:
        (work_dir / f"{name}.py").write_text(program)
        (work_dir / "vis_data" / f"{name}.py").write_text(program)
    shutil.copy(work_dir / "config.py", work_dir / "config.json")
    learn(work_dir)
    assert (work_dir / "iter_2.pth").is_file()
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    ended = run_tool(
        "predict.py", "--checkpoint", work_dir, tmp_path / "a.png", "--output", tmp_path / "out"
    )
    assert ended.code == 0, ended.errors
    assert not mark.is_left


def network_of(two_steps: Path, change: Callable[[dict], None], path: Path) -> Path:
    """Writes a checkpoint that describes another network."""
    checkpoint = copy.deepcopy(own(two_steps))
    change(checkpoint["meta"]["segmenter"]["model"])
    torch.save(checkpoint, path)
    return path


def test_a_network_may_name_no_function(two_steps, mark, tmp_path):
    """mmengine calls whatever has a dotted name."""
    from mmengine.registry import MODELS

    call = {"type": "os.mkdir", "path": str(mark.path)}
    assert mark.is_left_by(lambda: MODELS.build(dict(call)))
    places = {
        "backbone": lambda m: m.update(backbone=dict(call)),
        "a layer": lambda m: m["decode_head"].update(norm_cfg=dict(call)),
        "a list": lambda m: m.update(auxiliary_head=[dict(call)]),
        "the whole": lambda m: (m.clear(), m.update(call)),
        "weights": lambda m: m["backbone"].update(init_cfg=[dict(call)]),
        "what prepares images": lambda m: m.update(data_preprocessor=dict(call)),
    }
    for place, change in places.items():
        path = network_of(two_steps, change, tmp_path / "other.pth")
        with pytest.raises(UserError, match=r"mkdir|not a segmenter|describes"):
            Segmenter.from_run(path)
        assert not mark.is_left, place


def test_a_network_may_name_no_package(two_steps, mark, tmp_path, monkeypatch):
    """mmengine imports ``<scope>.registry``."""
    from mmengine.registry import MODELS

    package = tmp_path / "path" / "evil_scope"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text(f"import os\nos.mkdir({str(mark.path)!r})\n")
    monkeypatch.syspath_prepend(package.parent)
    assert mark.is_left_by(lambda: MODELS.build({"type": "BN", "_scope_": "evil_scope"}))
    for name in ("evil_scope", "evil_scope.registry"):
        sys.modules.pop(name, None)
    path = network_of(
        two_steps, lambda m: m["decode_head"].update(_scope_="evil_scope"), tmp_path / "other.pth"
    )
    with pytest.raises(UserError, match="evil_scope"):
        Segmenter.from_run(path)
    assert not mark.is_left and "evil_scope" not in sys.modules


@pytest.mark.parametrize(
    "parts",
    [
        {"model_name": "hf_hub:someone/evil"},
        {"model_name": "local-dir:/tmp/evil"},
        {"model_name": "resnet18", "checkpoint_path": "CHECKPOINT"},
        {"model_name": "resnet18", "pretrained": True},
    ],
    ids=["hub", "folder", "file", "download"],
)
def test_a_network_of_timm_fetches_nothing(parts, two_steps, tmp_path, monkeypatch):
    opened = []

    def fetch(*args, **kwargs):
        opened.append(args)
        raise AssertionError("it was fetched")

    for place in (
        "timm.models._factory.load_model_config_from_hf",
        "timm.models._factory.load_checkpoint",
        "timm.models._builder.load_pretrained",
    ):
        monkeypatch.setattr(place, fetch)
    backbone = {"type": "TIMMBackbone", "out_indices": (1, 4), "features_only": True, **parts}
    path = network_of(two_steps, lambda m: m.update(backbone=backbone), tmp_path / "other.pth")
    with pytest.raises(UserError, match="which timm does not have|does not fit the network"):
        Segmenter.from_run(path)
    assert opened == []


def test_weights_that_a_network_names_are_not_read(two_steps, mark, tmp_path):
    from tests.safety.live_weights import zipped

    evil = tmp_path / "evil.pth"
    zipped(evil, mark.path, {})
    assert mark.is_left_by(lambda: torch.load(evil, weights_only=False))
    init = {"type": "Pretrained", "checkpoint": str(evil)}
    path = network_of(
        two_steps, lambda m: m["backbone"].update(init_cfg=init), tmp_path / "other.pth"
    )
    assert Segmenter.from_run(path).class_names[0] == "background"
    assert not mark.is_left


def test_a_checkpoint_has_no_file_removed(two_steps, learn, tmp_path):
    """mmengine removes the files that a checkpoint calls the best so far, and the oldest."""

    work_dir, precious = tmp_path / "work", tmp_path / "precious.pth"
    (work_dir / "iter_").mkdir(parents=True)
    precious.write_text("precious")
    checkpoint = own(two_steps)
    names = {"best_ckpt": str(precious), "best_score": -1.0, "last_ckpt": str(precious)}
    names["keep_ckpt_ids"] = ["/../../precious", 0, 1]
    checkpoint["message_hub"]["runtime_info"] |= names
    checkpoint["message_hub"]["resumed_keys"] |= dict.fromkeys(names, True)
    torch.save(checkpoint, work_dir / "iter_1.pth")
    pairs = write_labelled(tmp_path / "val")
    settings = tiny_settings(iterations=4, checkpoint_interval=1, validation_interval=2)
    train_tiny(write_pairs(tmp_path / "val"), work_dir, settings, validation=pairs)
    assert list(work_dir.glob("best_*")) and precious.read_text() == "precious"


@pytest.mark.parametrize("part", ["meta", "optimizer", "message_hub", "param_schedulers", "iter"])
def test_parts_that_are_missing_are_one_sentence(part, two_steps, learn, tmp_path):
    checkpoint = own(two_steps)
    if part == "iter":
        checkpoint["meta"]["iter"] = "many"
    else:
        checkpoint[part] = {"state": 3}
    (tmp_path / "work").mkdir()
    torch.save(checkpoint, tmp_path / "work" / "iter_1.pth")
    with pytest.raises(UserError, match="iter_1.pth is damaged") as caught:
        learn(tmp_path / "work")
    assert "\n" not in str(caught.value) and (tmp_path / "work" / "iter_1.pth").exists()
