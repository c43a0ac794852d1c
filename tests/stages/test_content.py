"""What a result was made from is in its key, or in that of its image, by content."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.configuration.plugins import import_plugins
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.run import Run
from pipeline.engine.sample import Images, Sample
from pipeline.engine.scan import available
from pipeline.engine.stage import Stage
from pipeline.engine.store import Store
from pipeline.engine.workers import Executor
from pipeline.errors import UserError
from pipeline.segmenter import mmseg
from pipeline.segmenter.stage import CHOSEN_BY, Training
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import TINY_SEGMENTER, draw_photograph, folder_options, replaced


@pytest.fixture
def opened(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., Pipeline]:
    """Returns the stages of a run on three photographs, with masks of one's own."""
    for folder in ("photographs", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        name = f"{index}.png"
        Image.fromarray(draw_photograph(index, 40, 48)).save(tmp_path / "photographs" / name)
        labels = np.full((40, 48), index % 2, np.uint8)
        Image.fromarray(labels).save(tmp_path / "masks" / name)

    from_files = "masks=file", f"masks.path={tmp_path / 'masks'}"

    def opened(*more: str, masks: Sequence[str] = from_files) -> Pipeline:
        own = "dataset.classes=[cat,cup]", "tags=tagclip", *masks, *TINY_SEGMENTER
        given = folder_options(tmp_path / "photographs", tiny_checkpoint, *own)
        given = replaced(given, f"output_dir={tmp_path / 'out'}", *more)
        return Pipeline.open(read_config(compose(given)))

    list(opened().run(["masks"]))
    return opened


def rewrite(path: Path, content: bytes) -> None:
    """Changes a file's content, and neither its size nor its time."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def key_of(pipeline: Pipeline, name: str) -> str:
    return next(stage.key for stage in pipeline.builder.stages if stage.name == name)


def test_what_a_training_would_fail_on_is_said_before_the_stages_ahead_of_it(
    opened, tmp_path, monkeypatch
):
    def fail(name):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(mmseg, "load_config", fail)
    with pytest.raises(ImportError, match="libGL"):
        next(opened().run(["tags", "train"]))
    assert not [*tmp_path.glob("out/*/tags")]
    next(opened().run(["tags"]))


def test_a_training_has_its_config_in_its_key_with_all_that_it_inherits(opened, tmp_path):
    original = opened().builder.config.segmenter.config
    root = Path(importlib.util.find_spec("mmseg").origin).parent / ".mim" / "configs"
    mine, inherited = tmp_path / "mine.py", tmp_path / "inherited.py"
    inherited.write_text(f"_base_ = [{str(root / original)!r}]\nmodel = dict(a=1)\n")
    mine.write_text("_base_ = ['./inherited.py']\nmodel = dict(b=1)\n")

    def key() -> str:
        return key_of(opened(f"segmenter.config={mine}"), "segmenter")

    first = key()
    assert key() == first
    for path in (mine, inherited):
        before = path.read_bytes()
        rewrite(path, before.replace(b"=1", b"=2"))
        assert key() != first
        rewrite(path, before)
        assert key() == first


@pytest.mark.parametrize("folder", ["photographs", "masks"])
def test_a_training_has_its_photographs_and_masks_in_its_key(folder, opened, tmp_path):
    def key(*more: str) -> str:
        list(opened(*more).run(["masks"]))
        return key_of(opened(*more), "segmenter")

    first = key()
    assert key() == first
    path = tmp_path / folder / "1.png"
    content = path.read_bytes()
    Image.fromarray(np.zeros_like(Image.open(path))).save(path)
    assert key() != first
    path.write_bytes(content)
    assert key() == first
    assert key("dataset.limit=2") != first


def test_another_network_under_the_same_key_predicts_anew(opened, tmp_path, monkeypatch):
    def computed(*more: str) -> list[int]:
        return [outcome.computed for outcome in opened(*more).run(["train", "predict"])]

    assert computed() == [3, 3]
    assert computed() == [0, 0]
    (checkpoint,) = (tmp_path / "out" / "segmenter").glob("[!l]*/iter_2.pth")
    content = checkpoint.read_bytes()
    network = torch.load(checkpoint, weights_only=True)
    for weight in network["state_dict"].values():
        weight.zero_()
    torch.save(network, checkpoint)
    assert computed() == [0, 3]
    labels = tmp_path / "out" / "all" / "predictions" / "latest" / "1.png"
    assert not np.asarray(Image.open(labels)).any()
    assert computed() == [0, 0]
    # The one before again.
    checkpoint.write_bytes(content)
    assert computed() == [0, 3]
    # The best one is another file.
    best = checkpoint.with_name("best_mIoU_iter_1.pth")
    torch.save(network, best)
    monkeypatch.setattr(Training, "chosen_by", {"validation_interval": 1})
    best.with_name(CHOSEN_BY).write_text(json.dumps(Training.chosen_by))
    assert computed("segmenter.checkpoint=best") == [0, 3]
    assert not np.asarray(Image.open(labels)).any()
    best.write_bytes(content)
    assert computed("segmenter.checkpoint=best") == [0, 3]
    assert computed() == computed("segmenter.checkpoint=best") == [0, 0]


def test_figures_are_of_the_photographs_and_the_network_that_are_there(opened, tmp_path):
    def run(*stages: str) -> None:
        list(opened(f"dataset.masks={tmp_path / 'masks'}").run(stages))

    def figures() -> dict[str, set[str]]:
        latest = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]
        return {stage: {*splits} for stage, splits in latest.items()}

    run("tags", "train", "predict", "evaluate")
    (checkpoint,) = (tmp_path / "out" / "segmenter").glob("[!l]*/iter_2.pth")
    content = checkpoint.read_bytes()
    torch.save({**torch.load(checkpoint, weights_only=True), "more": 1}, checkpoint)
    with pytest.raises(UserError, match=r"segmenter changed\): run .*predict"):
        run("evaluate")
    checkpoint.write_bytes(content)
    run("evaluate")
    assert figures() == {stage: {"all"} for stage in ("tags", "masks", "predictions")}
    Image.fromarray(draw_photograph(7, 40, 48)).save(tmp_path / "photographs" / "1.png")
    old = r"tags for split all were made from something else .* \(1 image: its photograph changed\)"
    with pytest.raises(UserError, match=old):
        list(opened(f"dataset.masks={tmp_path / 'masks'}", "dry_run=true").plan(["evaluate"]))
    with pytest.raises(UserError, match=old):
        run("evaluate")
    assert figures() == {}


def test_a_later_round_refuses_masks_of_another_network(opened, tmp_path):
    assert [o.computed for o in opened().run(["train"])] == [3]

    def masks() -> tuple[Stage, Images, Store]:
        pipeline = opened("rounds=2", "self_training.keep_tags=false")
        (stage,) = [s for s in pipeline.builder.stages if s.name == "masks" and s.round == 2]
        return stage, pipeline.builder.images, pipeline.builder.store

    stage, *place = masks()
    with Run(*place, Executor(ExecutorSettings(), 1)) as run:
        (outcome,) = run.compute([stage])
    assert outcome.computed == 3
    assert len(available(*masks())) == 3
    (checkpoint,) = (tmp_path / "out" / "segmenter").glob("[!l]*/iter_2.pth")
    network = torch.load(checkpoint, weights_only=True)
    torch.save({**network, "more": 1}, checkpoint)
    with pytest.raises(UserError, match="masks for .*3 images: their segm"):
        available(*masks())


def test_a_later_round_has_the_tags_that_it_keeps_in_its_inputs(opened, tmp_path):
    def inputs(tags: list[int], *more: str) -> str:
        stages = opened("rounds=2", *more).builder.stages
        (relabelled,) = [s for s in stages if s.name == "masks" and s.round == 2]
        sample = Sample("1", tmp_path / "photographs" / "1.png")
        folders = {
            name: SimpleNamespace(entries={"1": {"tags": tags}}) for name in relabelled.before
        }
        return relabelled.item(sample, folders).inputs

    assert inputs([0]) == inputs([0]) != inputs([1])
    anew = "self_training.keep_tags=false"
    assert inputs([0], anew) == inputs([1], anew) != inputs([0])


def test_an_edited_line_of_a_list_costs_its_image(opened, tmp_path):
    import_plugins(["tests.plugins.colour_cams"])
    listed = tmp_path / "tags.txt"

    def computed(*lines: str, path: Path = listed) -> list[tuple[int, int]]:
        path.write_text("".join(f"{line}\n" for line in lines))
        pipeline = opened("tags=file", f"tags.path={path}", "cams=channel", "tags.min_score=0.3")
        return [(o.computed, o.reused) for o in pipeline.run(["tags", "cams"])]

    assert computed("0 0", "1 1", "2 0 1") == [(3, 0), (3, 0)]
    assert computed("2 0 1", "1 1", "0 0") == [(0, 0), (0, 0)]
    assert computed("0 0", "1 0", "2 0 1") == [(1, 0), (1, 0)]
    # The CAMs of another list are those of this one where both agree.
    other = tmp_path / "other.txt"
    assert computed("0 0", "1 0", "2 0", path=other) == [(3, 0), (1, 2)]


def test_results_of_other_tags_are_neither_measured_nor_used(opened, tmp_path):
    import_plugins(["tests.plugins.colour_cams"])
    listed, labels = tmp_path / "tags.txt", tmp_path / "labels.csv"
    labels.write_text("0.png, cat\n1.png, cup\n2.png, cat, cup\n")

    def run(*stages: str) -> list:
        given = [f"tags.path={listed}", f"dataset.labels={labels}", "tags.min_score=0.3"]
        given += [f"dataset.masks={tmp_path / 'masks'}"]
        return list(opened("tags=file", "cams=channel", *given, masks=()).run(stages))

    listed.write_text("0 0\n1 1\n2 0 1\n")
    run("tags", "cams", "masks", "evaluate")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]
    assert figures["tags"]["all"]["f1"] == 1 and {*figures} == {"tags", "cams", "masks"}
    listed.write_text("0 0\n1 0\n2 0 1\n")
    # The tags are measured all the same.
    with pytest.raises(UserError, match="not measured: cams .*something else"):
        run("tags", "evaluate")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]
    assert figures["tags"]["all"]["f1"] == 0.75 and {*figures} == {"tags"}, "masks are of the CAMs"
    with pytest.raises(UserError, match=r"its tags changed\): run stage=cams"):
        run("masks")
    assert [o.computed for o in run("cams", "masks", "evaluate")[:2]] == [1, 1]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["latest"]
    assert {*figures} == {"tags", "cams", "masks"}
    # What it was made from need not be kept.
    shutil.rmtree(tmp_path / "out" / "all" / "cams")
    assert len(run("evaluate")) == 2


@pytest.mark.parametrize(("group", "stage"), [("clip", "tags"), ("segmenter", "segmenter")])
def test_weights_are_in_the_key_by_content(group, stage, opened, tiny_checkpoint, tmp_path):
    path = tmp_path / "weights.safetensors"
    shutil.copy(tiny_checkpoint, path)
    option = {"clip": "clip.checkpoint", "segmenter": "segmenter.pretrained"}[group]
    first = key_of(opened(f"{option}={path}"), stage)
    content = path.read_bytes()
    rewrite(path, content[:-1] + bytes([content[-1] ^ 1]))
    assert key_of(opened(f"{option}={path}"), stage) != first
    rewrite(path, content)
    assert key_of(opened(f"{option}={path}"), stage) == first


def test_imported_cams_are_in_the_inputs_by_content(opened, tmp_path):
    path, sample = tmp_path / "1.npz", Sample("1", tmp_path / "photographs" / "1.png")
    path.write_bytes(b"some CAMs")

    def made_from() -> str:
        stages = opened("cams=file", f"cams.path={tmp_path}").builder.stages
        return next(stage for stage in stages if stage.name == "cams").item(sample, {}).inputs

    first = made_from()
    assert made_from() == first
    rewrite(path, b"more CAMs")
    assert made_from() != first


def test_a_network_is_made_from_the_images_that_it_learned_from(opened, tmp_path, monkeypatch):
    """A photograph that cannot be read any more is left out of the training, and of its record."""
    monkeypatch.setattr(Training, "broken", lambda _: {"1": "is damaged"})
    with pytest.raises(UserError, match="1 of 3 .*left out of segmenter"):
        list(opened("runtime.max_failures=0").run(["train"]))
    (listed,) = (tmp_path / "out" / "segmenter").glob("*/failures.jsonl")
    assert json.loads(listed.read_text()) == {"id": "1", "reason": "is damaged"}
    *_, outcome = opened("runtime.max_failures=1").run(["train"])
    assert (outcome.computed, {*outcome.left_out}) == (2, {"1"})
    (record,) = (tmp_path / "out" / "segmenter").glob("[!l]*/learned_from.json")
    assert json.loads(record.read_text()).keys() == {"0", "2"}
