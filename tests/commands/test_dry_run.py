"""A dry run says what a run would compute, and touches nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model

from pipeline.clip.origins.open_clip_origin import OfOpenClip
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files import hugging_face
from pipeline.files.shipped import DEMO
from tests.datasets import miniatures
from tests.small_runs import TINY_SEGMENTER, draw_photograph, latest, replaced


def tree(root: Path) -> dict[str, tuple]:
    """Returns all that is below a folder, with bytes and times."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mtime_ns,
            path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def dry_run(run_stage, arguments, tmp_path):
    """Returns the rows of a dry run, which must leave everything as it is."""
    # A capture is no terminal, so that the table has the width that it needs.
    out = tmp_path / "out"

    def run(*more: object, code: int = 0, given=arguments) -> list[list[str]]:
        before, was_there = tree(tmp_path), out.exists()
        finished = run_stage(*given, "dry_run=true", *more)
        assert finished.code == code, finished.errors
        assert tree(tmp_path) == before and out.exists() == was_there
        run.output, run.errors = finished.output, finished.errors
        lines = [line for line in finished.output.splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]

    return run


def test_nothing_is_there_yet(dry_run):
    rows = dry_run("stage=[tags,cams,masks]")
    assert [row[:5] for row in rows] == [
        ["tags", "all", "5", "0", "all"],
        ["cams", "all", "5", "0", "all, with tags"],
        ["masks", "all", "5", "0", "all, after cams"],
    ]
    assert all(re.fullmatch("[0-9a-f]{12}", row[5]) for row in rows)
    assert dry_run.output.splitlines()[-1].startswith("next: python tools/run_stage.py dataset=fol")
    assert "dry_run" not in dry_run.output.splitlines()[-1]


def test_what_is_planned_is_what_a_run_does(dry_run, run_stage, arguments, photographs, tmp_path):
    def planned_and_done(*more: str) -> dict[str, tuple[int, int]]:
        rows = dry_run(*more)
        finished = run_stage(*arguments, *more)
        assert finished.code == 0, finished.errors
        found = {}
        for row in rows:
            pattern = (
                rf"^{row[0]} .* (\d+) images, (\d+) computed now, (\d+) from the cache.*/(\w+)$"
            )
            images, computed, cached, key = re.search(pattern, finished.output, re.M).groups()
            planned = row[4].removeprefix("up to ").split(",")[0].replace("all", images)
            assert (row[2], row[3], planned, row[5]) == (images, cached, computed, key), row
            found[row[0]] = (int(computed), int(cached))
        return found

    stages = "stage=[tags,cams,masks]"
    assert planned_and_done(stages) == {"tags": (5, 0), "cams": (5, 0), "masks": (5, 0)}
    assert planned_and_done(stages) == {"tags": (0, 5), "cams": (0, 5), "masks": (0, 5)}
    assert dry_run(stages)[0][4] == "0" and "everything is in the cache" in dry_run.output

    Image.fromarray(draw_photograph(77, 50, 50)).save(photographs / "new.jpg")
    assert planned_and_done(stages) == {"tags": (1, 5), "cams": (1, 5), "masks": (1, 5)}
    Image.fromarray(draw_photograph(78, 50, 50)).save(photographs / "new.jpg")
    assert planned_and_done(stages) == {"tags": (1, 5), "cams": (1, 5), "masks": (1, 5)}
    # A change costs the stages that depend on it; "seed" is of the segmenter.
    found = planned_and_done(stages, "masks.crf.iterations=2", "seed=3")
    assert found == {"tags": (0, 6), "cams": (0, 6), "masks": (6, 0)}
    fewer = (stages, "cams.box_threshold=0.5", "dataset.limit=2")
    assert planned_and_done(*fewer) == {"tags": (0, 2), "cams": (2, 0), "masks": (2, 0)}
    mask = (tmp_path / "out" / "all" / "masks" / "latest").resolve() / "a.png"
    mask.write_bytes(mask.read_bytes()[:20])
    assert planned_and_done(*fewer)["masks"] == (1, 1)
    (photographs / "new.jpg").unlink()
    assert planned_and_done("stage=masks", "masks=argmax")["masks"] == (5, 0)


def test_what_a_run_would_link_is_there_for_the_stages_after_it(dry_run, run_stage, arguments):
    stages = "stage=[tags,cams,masks]"
    assert run_stage(*arguments, "stage=[tags,cams]").code == 0
    rows = dry_run(stages, "tags.min_score=0.001")
    assert [row[2:5] for row in rows] == [["5", "5", "0"], ["5", "5", "0"], ["5", "0", "all"]]
    assert run_stage(*arguments, stages).code == 0
    assert [row[2:5] for row in dry_run(stages, "tags.min_score=0.001")] == [["5", "5", "0"]] * 3


def test_a_training_is_planned_too(dry_run, run_stage, arguments, tmp_path):
    first = dry_run(*TINY_SEGMENTER)
    assert [row[:5] for row in first[3:]] == [
        ["segmenter", "all", "5", "–", "up to all, after masks"],
        ["predictions", "all", "5", "–", "up to all, after masks"],
        ["evaluate", "–", "–", "–", "all results"],
        ["report", "–", "–", "–", "all results"],
    ]
    assert first[3][5] == "known after masks"
    assert run_stage(*arguments, *TINY_SEGMENTER).code == 0
    assert all(row[4] in ("0", "all results") for row in dry_run(*TINY_SEGMENTER))
    # Another seed is another training.
    train, predict = dry_run(*TINY_SEGMENTER, "seed=4", "stage=[train,predict]")
    assert train[3:5] == ["0", "all"] and predict[3:5] == ["0", "all, after segmenter"]
    assert predict[5] != first[4][5]
    # With other maps, the masks may come out as they were.
    rows = dry_run(*TINY_SEGMENTER, "tags.variants=[coarse,dmar,cwr,clip]")
    assert rows[0][4] == "all" and rows[1][4] == "up to all, with tags"
    # A second round follows from the first one's segmenter.
    rows = dry_run(*TINY_SEGMENTER, "rounds=2")
    assert ["masks", "all, round 2"] in [row[:2] for row in rows]


def test_errors_are_those_of_the_run(dry_run, run_stage, arguments, finish):
    for stages in ("cams", "masks", "train", "predict", "evaluate"):
        assert dry_run(f"stage={stages}", code=2) == []
        errors = dry_run.errors
        assert errors == run_stage(*arguments, f"stage={stages}").errors
        assert errors.startswith("error: ") and " first: python " in errors
    # So is what a later round needs.
    finish("stage=[tags,cams,masks]")
    given = ("stage=[tags,cams,masks]", "rounds=2")
    assert [row[0] for row in dry_run(*given, code=2)] == ["tags", "cams", "masks"]
    assert dry_run.errors == run_stage(*arguments, *given).errors.splitlines(True)[-1]
    assert "round 2 needs the segmenter of round 1" in dry_run.errors


DENSE = "cams=sclip masks=dense stage=masks"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("masks=regions masks.regions=/nope", "masks.regions=/nope is not a folder"),
        ("cams=file cams.path=/nope", "cams.path=/nope is not a folder"),
        (f"{DENSE} masks.window=5", "masks.window=5 is smaller than a patch of this CLIP"),
        (f"{DENSE} masks.stride=1000", "masks.stride=1000 leaves gaps between windows of 64"),
        ("cams=excel cams.affinity_blocks=[0,-5]", "cams.affinity_blocks=[0,-5] is empty"),
        ("cams=sc_clip cams.stream_blocks=[-1,-3]", "stream_blocks=[-1,-3] is empty"),
        ("tags.attention_blocks=[9,9]", "tags.attention_blocks=[9,9] asks for block 9"),
        (
            "segmenter.test.precision=fp16 runtime.device=cpu rounds=2",
            "segmenter.test.precision=fp16 is for GPUs",
        ),
        ("clip.checkpoint={empty}", "{empty} is damaged or holds no weights"),
        ("clip.checkpoint={half}", "{half} is damaged or holds no weights"),
        ("clip.checkpoint={demo} clip.model=ViT-B-32", "not clip.model=ViT-B-32"),
        (
            "output_dir={empty}/out",
            "cannot write to {empty}/out: Not a directory; choose",
        ),
        ("output_dir={foreign}", "{foreign}/metrics.json exists, and no run wrote it"),
    ],
)
def test_what_a_run_refuses_a_dry_run_refuses_too(
    dry_run, run_stage, arguments, tiny_checkpoint, tmp_path, given, error
):
    """Both refuse it before anything is computed."""
    places = {name: tmp_path / name for name in ("empty", "half", "foreign")}
    places["half"] = tmp_path / "half.safetensors"
    places["half"].write_bytes(tiny_checkpoint.read_bytes()[:-100])
    places["empty"].touch()
    places["foreign"].mkdir()
    (places["foreign"] / "metrics.json").touch()
    places["demo"] = DEMO / "clip.safetensors"
    more = given.format(**places).split()
    more += [] if "stage=masks" in more else ["stage=[tags,cams,masks]"]
    assert dry_run(*more, code=2) == []
    assert dry_run.errors.startswith("error: ") and error.format(**places) in dry_run.errors
    finished = run_stage(*arguments, *more)
    assert (finished.code, finished.errors) == (2, dry_run.errors)
    assert not list(tmp_path.glob("*/all")), "nothing was computed"


def test_a_folder_that_cannot_be_written_to_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(UserError, match="Permission denied; choose another"):
        Store(tmp_path / "out").check([])


def test_other_files_are_named(dry_run, photographs):
    (photographs / "notes.txt").touch()
    dry_run("stage=tags")
    assert "note: files that are not images were left out: 1 .txt" in dry_run.errors


def test_known_tags_are_planned_by_what_they_say(dry_run, run_stage, arguments, tmp_path):
    tags = tmp_path / "tags.txt"
    tags.write_text("a 1 3\nb 0\nc\nd 2\nholiday%202026/e%20f 3\n")
    given = replaced(arguments, "tags=file", f"tags.path={tags}", "stage=[tags,cams]")
    assert [row[4] for row in dry_run(given=given)] == ["all", "all, after tags"]
    assert run_stage(*given).code == 0
    assert (latest(tmp_path / "out", "tags") / "tags.txt").read_text() == tags.read_text()
    with np.load(latest(tmp_path / "out", "cams") / "c.npz") as arrays:
        assert arrays["cams"].shape[0] == 0
    assert [row[4] for row in dry_run(given=given)] == ["0", "0"]
    # An image without a line is left out.
    tags.write_text("a 1 3\nb 0\nc\n")
    rows = [row[2:5] for row in dry_run(given=given)]
    assert rows == [["5", "3", "0"], ["3", "3", "0"]]
    assert "note: tags will leave out 2 of 5 images, the first d: has no line in" in dry_run.errors
    assert "nothing to compute: what is not in the cache is left out" in dry_run.output
    # A corrected line costs its image.
    tags.write_text("a 1 3\nb 0 1\nc\nd 2\nholiday%202026/e%20f 3\n")
    assert [row[2:5] for row in dry_run(given=given)] == [
        ["5", "4", "1"],
        ["5", "4", "up to 1, after tags"],
    ]


def test_masks_that_have_to_be_drawn_are_not_kept(run_stage, tiny_checkpoint, tmp_path):
    sbd = miniatures.build_sbd(tmp_path)
    root = miniatures.build_voc2012(tmp_path)
    before = tree(tmp_path)
    given = ["dataset=voc2012", f"dataset.root={root}", f"dataset.sbd_root={sbd}", "clip=file"]
    given += ["dataset.split=train_aug", "tags=ground_truth", f"clip.checkpoint={tiny_checkpoint}"]
    given += ["stage=[tags,cams]", f"output_dir={tmp_path / 'out'}", "dry_run=true"]
    finished = run_stage(*given)
    assert finished.code == 0, finished.errors
    assert tree(tmp_path) == before


def test_scenes_are_not_drawn_and_counted(dry_run, run_stage, tmp_path, monkeypatch):
    root = tmp_path / "scenes"
    given = ["dataset.limit=2", f"dataset.root={root}", f"output_dir={tmp_path / 'out'}"]
    given += ["runtime.workers=1", "stage=[tags,masks,train]", "cams=sclip", "masks=dense"]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.datasets.demo.render_scene", None)  # cannot be called
        dry_run("stage=evaluate", code=2, given=given)
        assert "there is nothing to evaluate" in dry_run.errors
        rows = dry_run(given=given)
    network = "note: the network is frozen_clip\n"
    assert dry_run.errors == f"note: the run first draws 4 scenes\n{network}"
    assert {tuple(row[2:5]) for row in rows[:4]} == {("2", "0", "all, after drawing")}
    trained = [(row[1], row[5]) for row in rows if row[0] == "segmenter"]
    assert trained == [("train", "known after masks")]
    val = [*given[:-3], "stage=tags", "dataset.split=val"]
    assert run_stage(*val).code == 0
    assert {path.parent.name for path in root.rglob("*.png")} == {"val"}, "all that was asked for"
    keys = [row[5] for row in rows]
    rows = dry_run(given=given)
    assert dry_run.errors == f"note: the run first draws 2 scenes\n{network}"
    assert [row[3:5] for row in rows[:2]] == [["0", "all, after drawing"], ["2", "0"]]
    assert [row[5] for row in rows] == keys
    assert keys[1] == (tmp_path / "out/val/tags/latest").resolve().name
    rows = dry_run(given=[*val, "dataset.limit=3"])
    assert dry_run.errors == "note: the run first draws 1 scenes\n"
    assert rows[0][2:5] == ["3", "2", "1, after drawing"]


def test_a_planned_multirun_of_a_file_writes_nothing(run_stage, arguments, tmp_path):
    preset = tmp_path / "configs" / "experiment" / "planned.yaml"
    preset.parent.mkdir(parents=True)
    sweep = "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}"
    preset.write_text(f"# @package _global_\ndry_run: true\nstage: tags\n{sweep}\n")
    given = ["--config-dir", preset.parents[1], *arguments, "experiment=planned"]
    before = tree(tmp_path)
    finished = run_stage(*given)
    assert finished.code == 0, finished.errors
    assert finished.output.count("dry run: nothing is computed or written") == 2
    assert tree(tmp_path) == before


def test_weights_are_looked_for_where_they_are_kept(tmp_path, monkeypatch):
    asked, kept = [], {"open_clip_model.safetensors"}

    def find(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return name if name in kept else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", find)
    published = {"model": "ViT-B-32-quickgelu", "pretrained": "openai", "checkpoint": None}
    assert OfOpenClip(**published).is_on_disk
    assert asked == [("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")]
    kept.clear()
    assert not OfOpenClip(**published).is_on_disk
    assert OfOpenClip(**{**published, "checkpoint": "given.pt"}).is_on_disk
    assert OfOpenClip(**{**published, "model": None}).is_on_disk
    # Weights that are published at an address alone.
    monkeypatch.setenv("HOME", str(tmp_path))
    published = {"model": "RN50", "pretrained": "cc12m", "checkpoint": None}
    settings = {"url": "https://example.org/a/weights.pt"}
    monkeypatch.setattr("pipeline.clip.architectures.find_pretrained", lambda *names: settings)
    assert not OfOpenClip(**published).is_on_disk
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "weights.pt").touch()
    assert OfOpenClip(**published).is_on_disk


RESNET = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
PRETRAINED = (
    *TINY_SEGMENTER[:-5],
    "segmenter.overrides.backbone.base_channels=64",
    "segmenter.overrides.backbone.stem_channels=64",
    "segmenter.overrides.decode_head.in_channels=512",
    "segmenter.overrides.decode_head.c1_in_channels=64",
    "segmenter.pretrained=imagenet",
)


@pytest.mark.large
def test_a_run_fetches_the_weights_of_its_training_before_its_first_stage(
    dry_run, run_stage, arguments, tmp_path, monkeypatch
):
    downloads: dict[str, dict] = {}

    def download(source, path):
        (url,) = source.urls
        if url not in downloads:
            raise UserError("no such host") from URLError("Name or service not known")
        torch.save(downloads[url], path)

    monkeypatch.setattr(hugging_face, "fetch", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    given = [*arguments, *PRETRAINED]
    note = f"note: the run first downloads the weights {RESNET} (network: 46.8 MB)\n"
    note += "note: the network is demo\n"
    rows = dry_run("stage=[tags,cams,masks,train]", given=given)
    assert rows[-1][0] == "segmenter"
    assert dry_run.errors == note
    finished = run_stage(*given, "stage=[tags,cams,masks,train]")
    assert finished.code == 2 and f"{RESNET} could not be downloaded" in finished.errors
    assert not [*tmp_path.glob("out/*/tags")], "nothing was computed"

    downloads[RESNET] = get_model("resnet18").state_dict()
    finished = run_stage(*given, "stage=[tags,cams,masks,train]")
    assert finished.code == 0, finished.errors
    # Without a network again, a training that is complete or has begun requires no weights.
    downloads.clear()
    (tmp_path / "torch/hub/checkpoints" / Path(RESNET).name).unlink()
    (manifest,) = tmp_path.glob("out/segmenter/latest/manifest.json")
    for changes in ({}, {"checkpoint": None, "complete": False}):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))
        dry_run("stage=[tags,cams,masks,train]", given=given)
        assert dry_run.errors == ("note: the network is demo\n" if changes else "")
        assert run_stage(*given, "stage=[tags,cams,masks,train]").code == 0
    assert json.loads(manifest.read_text())["checkpoint"] == "iter_2.pth"
    dry_run("stage=train", given=[*given, "segmenter.iterations=3"])
    assert dry_run.errors == note


def test_a_network_that_cannot_be_built_is_refused_before_the_first_stage(
    dry_run, run_stage, arguments, tmp_path
):
    stages = "stage=[tags,cams,masks,train]"
    given = [*arguments, *TINY_SEGMENTER, "segmenter.accumulate=3", stages]
    dry_run(code=2, given=given)
    for errors in (dry_run.errors, run_stage(*given).errors):
        assert "segmenter.batch_size=2 cannot be divided into 3 equal parts" in errors
    assert not [*tmp_path.glob("out/*/tags")]
