"""Corrected masks: every choice takes them, and who reads them is answered in a sentence."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import read_cams
from pipeline.datasets.corrected import Corrections
from pipeline.errors import UserError
from pipeline.exchange.chains import pair_up
from pipeline.files.label_images import read_labels
from pipeline.masks.labels import UNFILTERED
from pipeline.segmenter.samples import PseudoLabelled
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.stages.conftest import SIZES, TRAINED, UP_TO_MASKS, E, draw, keep
from tests.tiers import large_except


@pytest.fixture
def given(runs) -> str:
    """The option for a person's masks of two of the photographs."""
    return runs.corrected("masks", {"a": [1, 3], E: [0]})


@pytest.fixture
def mine(given, runs) -> Path:
    """The folder with a person's masks of two of the photographs."""
    return runs.mine


def test_an_edited_outline_costs_one_mask(runs, given, mine):
    runs(UP_TO_MASKS, given)
    keep(mine, "a", draw("a", 2, 4, margin=12))
    assert runs(UP_TO_MASKS, given) == {"tags": (0, 5, 0), "cams": (0, 5, 0), "masks": (1, 0, 4)}
    assert (runs.mask("a") == draw("a", 2, 4, margin=12)).all()
    # Another class.
    keep(mine, "a", draw("a", 3))
    counts = runs(UP_TO_MASKS, given)
    assert counts["cams"][0] == 1 and counts["masks"] == (1, 0, 4)


def test_an_export_corrects_what_is_or_was_edited(runs, run_tool, tmp_path):
    def edited(image_id, number):
        path = tmp_path / f"{image_id}.json"
        assert run_tool("export.py", runs.folder(), "--format=coco", "--output", path).code == 0
        content = json.loads(path.read_text())
        image = next(i["id"] for i in content["images"] if i["file_name"] == f"{image_id}.jpg")
        others = [each for each in content["annotations"] if each["image_id"] != image]
        outline = {"segmentation": [[9, 9, 40, 9, 40, 40]], "category_id": number}
        content["annotations"] = [{"image_id": image, **outline}, *others[::-1]]
        path.write_text(json.dumps(content, indent=1, sort_keys=True))
        return path

    def corrected(path, counted):
        counts = runs(UP_TO_MASKS, f"masks.corrections={path}")
        assert f"note: masks.corrections, split all: {counted}\n" in runs.errors
        assert runs.manifest()["legend"].popitem()[1]["images"] == int(counted[0])
        return counts["masks"]

    runs.begin(UP_TO_MASKS)
    counted = "1 of 5 images is corrected (4 unchanged since the export)"
    assert corrected(edited("a", 4), counted)[0] == 1
    assert [i for i, found in runs.entries("found").items() if found is not None] == ["a"]
    path = edited("b", 2)
    corrected(path, "2 of 5 images are corrected (3 unchanged since the export)")
    assert [np.unique(runs.mask(i)).tolist() for i in "ab"] == [[0, 4], [0, 2]]
    # A program that drops what it does not know.
    path.write_text(re.sub(r'"exported": "\w+",', "", path.read_text()))
    assert corrected(path, "5 of 5 images are corrected") == (3, 0, 2)


@pytest.mark.parametrize(("form", "below"), [("labelme", ""), ("hugging_face", "masks")])
def test_a_file_that_is_only_saved_again_corrects_nothing(
    form, below, runs, run_tool, tmp_path, monkeypatch
):
    monkeypatch.setattr("pipeline.engine.progress.notes", {})  # each is told once
    runs.begin(UP_TO_MASKS)
    images = ["--images", tmp_path / "photographs"]
    given = [f"--format={form}", "--output", tmp_path / "theirs", *images]
    assert run_tool("export.py", runs.folder(), *given).code == 0
    folder = tmp_path / "theirs" / "all" / below
    for path in folder.rglob("*.json" if form == "labelme" else "*.png"):
        before = path.read_bytes()
        if form == "labelme":  # as labelme saves it
            content = json.loads(before)
            content["shapes"] = [{**each, "mask": None} for each in content["shapes"]]
            path.write_text(json.dumps(content, indent=3))
        else:
            with Image.open(path) as image:
                image.convert("RGB").save(path, compress_level=1)
        assert path.read_bytes() != before
    option = f"masks.corrections={folder}"
    runs(UP_TO_MASKS, option, "dry_run=true")
    assert ": 0 of 5 images are corrected (5 unchanged since the export)\n" in runs.errors
    # A file of another image is this one's correction, and so is a file that changed.
    if form == "labelme":
        outline = {"label": "cup", "points": [[9, 9], [40, 9], [40, 40]]}
        (folder / "a.json").write_text(json.dumps({**content, "shapes": [outline]}))
        shutil.copy(folder / "a.json", folder / "c.json")
    else:
        keep(folder, "a", draw("a", 4))
        keep(folder, "c", draw("a", 4))
    runs(UP_TO_MASKS, option, "dry_run=true")
    assert ": 2 of 5 images are corrected (3 unchanged since the export)\n" in runs.errors


def test_cams_of_corrected_images_are_not_read(runs, given, monkeypatch):
    read = []

    def record(path):
        read.append(path.stem)
        return read_cams(path)

    monkeypatch.setattr("pipeline.masks.stage.read_cams", record)
    runs(UP_TO_MASKS, given)
    assert sorted(read) == ["b", "c", "d"]


CHOICES = {
    "argmax": ["masks=argmax"],
    "pamr": ["masks=pamr"],
    "slic": ["masks=regions"],
    "dense": ["masks=dense", "cams=sclip", "masks.short_side=64"],
    "file": ["masks=file", "masks.path=THEIRS"],
    "cams=file": ["masks=argmax", "cams=file", "cams.path=CAMS"],
    "plug-in": ["masks=superpixels", "plugins=[tests.plugins.superpixels]"],
    "own stage": ["masks=own_stage", "plugins=[tests.plugins.own_stage]"],
}


@pytest.mark.parametrize("choice", large_except({*CHOICES} - {"pamr", "slic"}, CHOICES))
def test_every_choice_takes_corrected_masks(choice, runs, given, tmp_path):
    for image_id, size in SIZES.items():
        keep(tmp_path / "THEIRS", image_id, draw(image_id, 3))
        path = tmp_path / "CAMS" / f"{image_id}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, keys=np.array([0]), cams=np.ones((1, *size), np.float32))
    chosen = [re.sub("THEIRS|CAMS", rf"{tmp_path}/\g<0>", each) for each in CHOICES[choice]]
    reads_tags = choice not in ("dense", "file", "cams=file", "own stage")
    chosen.append(UP_TO_MASKS if reads_tags or choice == "cams=file" else "stage=masks")
    runs(*chosen)
    before = runs.folder()
    assert runs(*chosen, given)["masks"] == (2, 0, 3)
    for image_id in SIZES:
        labels, expected = runs.mask(image_id), {"a": (2, 4), E: (1,)}.get(image_id)
        computed = read_labels(before / f"{image_id}.png")
        assert (labels == (computed if expected is None else draw(image_id, *expected))).all()
    if chosen[-1] == UP_TO_MASKS:
        assert (runs.entries()["a"] == [1, 3]) == reads_tags
        assert ("corrections" in runs.manifest("tags")["configuration"]) == reads_tags
    # By the manifests, nothing changed since.
    assert "masks" in {stage.name for stage, _ in pair_up(runs.out)}


def test_a_corrected_mask_is_certain(runs, given):
    """And its CAMs, which come from one pass with the tags, are of its classes."""
    runs(UP_TO_MASKS, "masks.confidence=0.6", given)
    with np.load(runs.folder("cams") / "a.npz") as stored:
        assert stored["keys"].tolist() == [1, 3]
    for below in ("", UNFILTERED):
        assert (runs.mask("a", below) == draw("a", 2, 4)).all()
    assert (runs.mask("b") == 255).any()


def test_instances_of_low_scores_are_ignored_pixels_and_not_tags(runs, tmp_path):
    names, drawn = ["person", "cup", "dog"], [(0, 0, 0.9), (30, 0, 0.4), (60, 1, 0.3), (0, 2, 1)]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 90, "width": 70}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {
                "image_id": 1,
                "category_id": n,
                "segmentation": [[0, top, 20, top, 20, top + 20, 0, top + 20]],
                "score": score,
            }
            for top, n, score in drawn
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    given = [UP_TO_MASKS, f"masks.corrections={tmp_path / 'coco.json'}"]
    runs(*given)
    assert "note: coco.json has 1 instances of names that are not classes: dog (1)" in runs.errors
    assert runs.entries()["a"] == [1, 3]
    for least, label in ((0.35, 2), (0.5, 255)):
        counts = runs(*given, f"masks.min_score={least}")
        labels = runs.mask("a")
        assert (labels[30:50, :20] == label).all() and (labels[60:80, :20] == 255).all()
        assert runs.entries()["a"] == [1]
        assert counts["masks"] == (1, 0, 4), "the key holds how masks are read"
    assert {about["file"] for about in runs.manifest()["legend"].values()} == {"coco.json"}


def test_masks_of_other_images_are_refused(runs, given, mine):
    for image_id in ("holiday 2026/e g", "x"):
        keep(mine, image_id, np.zeros((9, 9), np.uint8))
    runs("stage=masks", given, "dry_run=true", code=2)
    said = "mine names holiday 2026/e g and 1 more, which split all does not have: did you mean"
    assert said in runs.errors


def test_files_that_correct_nothing_are_named(runs, given, mine, tmp_path):
    for name in ("b.PNG", "c.jpg"):
        (mine / name).write_bytes(b"")
    runs(UP_TO_MASKS, given, "dry_run=true")
    assert "b.PNG and 1 more are not read: corrected masks are PNGs or JSON" in runs.errors
    choice = {"type": "choices", "value": {"choices": ["cat"]}}
    choices = [{"data": {"image": "a.jpg"}, "annotations": [{"result": [choice]}]}]
    (tmp_path / "tasks.json").write_text(json.dumps(choices))
    runs("stage=masks", f"masks.corrections={tmp_path / 'tasks.json'}", code=2)
    assert "has no mask for 1 of its images, the first a (only classes)" in runs.errors
    assert "tasks.json holds no mask: save one there" in runs.errors


def test_values_that_are_not_named_are_no_ignored_pixels(runs, given):
    runs(UP_TO_MASKS, given, "masks.values=[255,50,60,70]")
    assert "label 2 (300 pixels, the first at x=0, y=10), label 4" in runs.errors


def test_a_table_of_tags_must_say_what_a_mask_shows(runs, given):
    both = [given, UP_TO_MASKS, runs.corrected("tags", {"a": [0, 3]})]
    for shown, said in (([0, 3], "cat;cup"), ([], "nothing")):
        runs.corrected("tags", {"a": shown})
        runs(*both, "dry_run=true", code=2)
        assert (
            f"image a shows {said} in mine.csv and person;cup in mine: correct tags.corrections or"
            " masks.corrections"
        ) in runs.errors
    # Where masks read no tags, both stand side by side.
    runs(*both, "dry_run=true", "masks=dense", "cams=sclip")
    runs.corrected("tags", {"a": [3, 1], "b": [0]})
    runs(*both)
    found = runs.entries()
    assert (found["a"], found["b"], found[E]) == ([1, 3], [0], [0])
    legends = {about["what"]: about for about in runs.manifest()["legend"].values()}
    assert legends["tags"]["file"] == "mine.csv and mine" and legends["tags"]["images"] == 3
    assert legends["masks"]["file"] == "mine" and legends["masks"]["images"] == 2


@pytest.mark.parametrize("damage", ["cut short", "another size", "a folder", "unknown label"])
def test_a_mask_that_cannot_be_used_leaves_out_its_image(damage, runs, given, mine):
    path = mine / "a.png"
    if damage == "another size":
        keep(mine, "a", np.ones((9, 9), np.uint8))
    elif damage == "unknown label":
        keep(mine, "a", draw("a", 77))
    else:
        content = path.read_bytes()
        path.unlink()
        path.mkdir() if damage == "a folder" else path.write_bytes(content[:40])
    runs(UP_TO_MASKS, given)
    assert re.search("left out: a: its mask cannot be used: .*a.png", runs.errors)
    assert "Traceback" not in runs.errors
    assert (runs.mask(E) == draw(E, 1)).all()
    assert {path.stem for path in runs.folder().rglob("*.png")} == {"b", "c", "d", "e f"}


def test_of_several_splits_some_may_be_corrected(demo, tmp_path):
    mask, mine = np.ones((240, 320), np.uint8), tmp_path / "mine"

    def plan(split: str, stage: str, said: str | None = None) -> None:
        planned = demo(f"masks.corrections={mine}", f"dataset.split={split}", stage)
        assert planned.code == (0 if said is None else 2) and (said or "") in planned.errors

    keep(mine, "00001", mask)
    for stage in ("masks", "evaluate"):
        plan("[train,val]", f"stage={stage}", "holds neither train/ nor train.json")
    plan("train", UP_TO_MASKS)
    # Of a split that the run does not work on, it matters where its masks are trained on.
    keep(mine, "00100", mask)
    (mine / "00001.png").unlink()
    plan("val", UP_TO_MASKS)
    plan("val", "stage=train", "holds neither train/ nor train.json")
    (mine / "00100.png").unlink()
    plan("train", UP_TO_MASKS, "mine holds no mask: save one there")
    keep(mine / "train", "00001", mask)
    plan("[train,val]", UP_TO_MASKS)


# Training


def test_an_epoch_shows_corrected_images_several_times(pairs):
    settings = read_config(compose(["dataset=demo", "clip=demo"])).segmenter
    settings.crop_size = 8
    several = [replace(pairs[0], repeats=3), *pairs[1:]]
    dataset = PseudoLabelled(several, settings, seed=0, metainfo={})
    assert len(dataset) == len(pairs) + 2
    for epoch in range(2):
        places = range(epoch * len(dataset), (epoch + 1) * len(dataset))
        seen = [dataset[place]["data_samples"].img_id for place in places]
        assert seen.count(pairs[0].id) == 3 and len({*seen}) == len(pairs)
        assert all(seen.count(pair.id) == 1 for pair in pairs[1:])
    assert pairs[0].repeats == 1


def test_the_key_of_a_training_holds_repetitions_of_corrected_images_alone(
    runs, arguments, given, mine
):
    runs.begin(*TRAINED)
    plain = runs.folder("segmenter", "")
    runs(*TRAINED, "segmenter.repeat_corrected=3")
    assert runs.folder("segmenter", "") == plain
    assert "segmenter.repeat_corrected has no effect without masks.corrections" in runs.errors
    found = set()
    for repeats in (1, 3):
        runs(*TRAINED, given, f"segmenter.repeat_corrected={repeats}")
        manifest = runs.manifest("segmenter", "")
        assert manifest["configuration"]["repeat_corrected"] == repeats
        assert manifest["images"] == 5 and "5 images, " in runs.output, "images count once"
        found.add(manifest["key"])
    assert len(found) == 2
    config = read_config(compose([*arguments, *TRAINED, given, "segmenter.repeat_corrected=3"]))
    (training,) = (s for s in Pipeline.open(config).builder.stages if s.name == "segmenter")
    repeats = {pair.id: pair.repeats for pair in training.pairs}
    assert repeats == {image_id: 3 if image_id in ("a", E) else 1 for image_id in SIZES}
    runs(*TRAINED, "dry_run=true")
    assert "repeat_corrected" not in runs.errors, "the default needs no corrected masks"


def test_masks_that_cannot_be_known_are_refused_where_a_key_depends_on_them():
    masks = Corrections(error=UserError("which split?"))
    assert not masks.tags
    for corrections in (masks, masks.tags_beside(Corrections(), ())):
        with pytest.raises(UserError, match="which split"):
            corrections.key_facts  # noqa: B018


def test_stages_of_a_worker_hold_no_masks(arguments, given):
    config = read_config(compose([*arguments, given]))
    stage = next(s for s in Pipeline.open(config).builder.stages if s.name == "masks")
    assert len(stage.corrected.masks) == 2
    assert not pickle.loads(pickle.dumps(stage)).corrected.masks
