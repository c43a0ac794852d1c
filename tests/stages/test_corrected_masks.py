"""Corrected masks: they come instead of computed ones, cost their images alone, and are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import Labeller
from pipeline.cams.cams import read_cams
from pipeline.datasets.corrected import Corrections
from pipeline.errors import UserError
from pipeline.exchange.chains import pair_up
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.masks.labels import PROBABILITY, UNFILTERED
from pipeline.segmenter.data import TrainingPair
from pipeline.segmenter.samples import PseudoLabelled
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.small_runs import TINY_SEGMENTER, artefacts, latest

CLASSES = ("cat", "person", "rocket", "cup")
UP_TO_MASKS = "stage=[tags,cams,masks]"
SIZES = {"a": (90, 70), "b": (64, 96), "c": (90, 70), "d": (64, 96), "holiday 2026/e f": (90, 70)}


def draw(image_id: str, *labels: int, margin: int = 10) -> np.ndarray:
    """Returns a mask of an image with a rectangle for each label, side by side."""
    mask = np.zeros(SIZES[image_id], np.uint8)
    for place, label in enumerate(labels):
        mask[margin : margin + 20, 20 * place : 20 * place + 15] = label
    return mask


def keep(folder: Path, image_id: str, mask: np.ndarray) -> None:
    path = folder / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(mask))


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with a person's masks of two of the photographs."""
    keep(tmp_path / "mine", "a", draw("a", 2, 4))
    keep(tmp_path / "mine", "holiday 2026/e f", draw("holiday 2026/e f", 1))
    return tmp_path / "mine"


@pytest.fixture
def run(run_stage, arguments):
    """Runs stages; returns stage → computed, cached, reused."""

    def run(*more: str, code: int = 0):
        finished = run_stage(*arguments, *more)
        assert finished.code == code, finished.errors
        run.errors, run.output = finished.errors, finished.output
        return finished.counts

    return run


def tags_of(out: Path) -> dict[str, list[int]]:
    lines = (latest(out, "tags") / "entries.jsonl").read_text().splitlines()
    return {entry["id"]: entry["tags"] for entry in map(json.loads, lines)}


def manifest_of(out: Path, stage: str = "masks") -> dict:
    return json.loads((latest(out, stage) / "manifest.json").read_text())


def test_two_masks_cost_two_images_and_an_edited_outline_costs_one_mask(run, mine, tmp_path):
    out, given = tmp_path / "out", f"masks.corrections={mine}"
    run(UP_TO_MASKS)
    first, before = latest(out, "masks").resolve(), tags_of(out)
    found = run(UP_TO_MASKS, given)
    assert found["tags"] == (0, 0, 5), "no image is scored again"
    assert found["masks"] == (2, 0, 3)
    assert tags_of(out) == {**before, "a": [1, 3], "holiday 2026/e f": [0]}
    second = latest(out, "masks").resolve()
    for image_id in SIZES:
        same = (second / f"{image_id}.png").read_bytes() == (first / f"{image_id}.png").read_bytes()
        assert same != (image_id in ("a", "holiday 2026/e f"))
    assert (read_labels(second / "a.png") == draw("a", 2, 4)).all()
    assert run(UP_TO_MASKS, given) == dict.fromkeys(found, (0, 5, 0))

    # Another outline of the same classes.
    keep(mine, "a", draw("a", 2, 4, margin=12))
    assert run(UP_TO_MASKS, given) == {"tags": (0, 5, 0), "cams": (0, 5, 0), "masks": (1, 0, 4)}
    assert (read_labels(latest(out, "masks") / "a.png") == draw("a", 2, 4, margin=12)).all()
    # Another class.
    keep(mine, "a", draw("a", 3))
    counts = run(UP_TO_MASKS, given)
    assert counts["cams"][0] == 1 and counts["masks"] == (1, 0, 4)
    # The same content under another name, and none.
    mine.rename(tmp_path / "renamed")
    renamed = f"masks.corrections={tmp_path / 'renamed'}"
    assert run(UP_TO_MASKS, renamed) == dict.fromkeys(counts, (0, 5, 0))
    run(UP_TO_MASKS)
    assert latest(out, "masks").resolve() == first


def test_cams_of_corrected_images_are_not_read(run, mine, monkeypatch):
    read = []

    def record(path):
        read.append(path.stem)
        return read_cams(path)

    monkeypatch.setattr("pipeline.masks.stage.read_cams", record)
    run(UP_TO_MASKS, f"masks.corrections={mine}")
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


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_takes_corrected_masks(choice, run, mine, tmp_path):
    (tmp_path / "CAMS").mkdir()
    for image_id, size in SIZES.items():
        keep(tmp_path / "THEIRS", image_id, draw(image_id, 3))
        path = tmp_path / "CAMS" / f"{image_id}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, {"keys": np.array([0]), "cam": np.ones((1, *size), np.float32)})
    chosen = [
        re.sub("THEIRS|CAMS", lambda m: str(tmp_path / m[0]), each) for each in CHOICES[choice]
    ]
    reads_tags = choice not in ("dense", "file", "cams=file", "own stage")
    stages = UP_TO_MASKS if reads_tags or choice == "cams=file" else "stage=masks"
    run(*chosen, stages)
    before = latest(tmp_path / "out", "masks").resolve()
    counts = run(*chosen, stages, f"masks.corrections={mine}")
    after = latest(tmp_path / "out", "masks").resolve()
    assert counts["masks"] == (2, 0, 3)
    for image_id in SIZES:
        labels, computed = (read_labels(f / f"{image_id}.png") for f in (after, before))
        expected = {"a": (2, 4), "holiday 2026/e f": (1,)}.get(image_id)
        assert (labels == (computed if expected is None else draw(image_id, *expected))).all()
    if stages == UP_TO_MASKS:
        assert (tags_of(tmp_path / "out")["a"] == [1, 3]) == reads_tags
        manifest = manifest_of(tmp_path / "out", "tags")
        assert ("corrections" in manifest["configuration"]) == reads_tags
    # By the manifests, nothing changed since.
    pairs = pair_up(tmp_path / "out")
    assert "masks" in {a.name for a, _ in pairs}


def test_a_corrected_mask_is_certain(run, mine, tmp_path):
    given = ["masks.keep_probability=true", "masks.confidence=0.6", f"masks.corrections={mine}"]
    run(UP_TO_MASKS, *given)
    folder = latest(tmp_path / "out", "masks")
    assert (read_labels(folder / PROBABILITY / "a.png") == 255).all()
    for path in (folder / "a.png", folder / UNFILTERED / "a.png"):
        assert (read_labels(path) == draw("a", 2, 4)).all()
    assert (read_labels(folder / PROBABILITY / "b.png") < 255).any()


def test_masks_may_be_drawn_by_labelme_and_names_joined(run, tmp_path):
    shape = {
        "label": "crew",
        "points": [[0, 0], [40, 0], [40, 30], [0, 30]],
        "shape_type": "polygon",
    }
    about = {"shapes": [shape], "imageHeight": 90, "imageWidth": 70}
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "a.json").write_text(json.dumps(about))
    given = [f"masks.corrections={tmp_path / 'drawn'}", "+masks.join.person=crew"]
    run(UP_TO_MASKS, *given)
    labels = read_labels(latest(tmp_path / "out", "masks") / "a.png")
    assert (labels[:31, :41] == 2).all() and labels.sum() == 2 * 31 * 41
    assert tags_of(tmp_path / "out")["a"] == [1]
    first = latest(tmp_path / "out", "masks").resolve()
    run(UP_TO_MASKS, given[0], "+masks.join.cup=crew")
    assert latest(tmp_path / "out", "masks").resolve() != first, "the key holds the reading"
    assert tags_of(tmp_path / "out")["a"] == [3]


def test_instances_of_low_scores_are_ignored_pixels_and_not_tags(run, tmp_path):
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
    run(*given)
    assert "note: coco.json has 1 instances of names that are not classes: dog (1)" in run.errors
    assert tags_of(tmp_path / "out")["a"] == [1, 3]
    for least, label in ((0.35, 2), (0.5, 255)):
        counts = run(*given, f"masks.min_score={least}")
        labels = read_labels(latest(tmp_path / "out", "masks") / "a.png")
        assert (labels[30:50, :20] == label).all() and (labels[60:80, :20] == 255).all()
        assert tags_of(tmp_path / "out")["a"] == [1]
        assert counts["masks"] == (1, 0, 4), "the key holds how masks are read"
    named = {about["file"] for about in manifest_of(tmp_path / "out")["legend"].values()}
    assert named == {"coco.json"}


def test_masks_of_other_images_are_refused(run, mine):
    keep(mine, "holiday 2026/e g", np.zeros((9, 9), np.uint8))
    keep(mine, "x", np.zeros((9, 9), np.uint8))
    run("stage=masks", f"masks.corrections={mine}", "dry_run=true", code=2)
    said = "mine names holiday 2026/e g and 1 more, which split all does not have: did you mean"
    assert said in run.errors


def test_files_that_correct_nothing_are_named(run, mine, tmp_path):
    for name in ("b.PNG", "c.jpg"):
        (mine / name).write_bytes(b"")
    run(UP_TO_MASKS, f"masks.corrections={mine}", "dry_run=true")
    assert "b.PNG and 1 more are not read: corrected masks are PNGs or JSON" in run.errors
    choice = {"type": "choices", "value": {"choices": ["cat"]}}
    choices = [{"data": {"image": "a.jpg"}, "annotations": [{"result": [choice]}]}]
    (tmp_path / "tasks.json").write_text(json.dumps(choices))
    run("stage=masks", f"masks.corrections={tmp_path / 'tasks.json'}", code=2)
    assert "has no mask for 1 of its images, the first a (classes alone)" in run.errors
    assert "tasks.json holds no mask: save one there" in run.errors


def test_values_that_are_not_named_are_no_ignored_pixels(run, mine):
    run(UP_TO_MASKS, f"masks.corrections={mine}", "masks.values=[255,50,60,70]")
    assert "label 2 (300 pixels, the first at x=0, y=10), label 4" in run.errors


def test_a_table_of_tags_must_say_what_a_mask_shows(run, mine, tmp_path):
    table, given = tmp_path / "tags.csv", [f"masks.corrections={mine}", UP_TO_MASKS]
    given.append(f"tags.corrections={table}")
    table.write_text("id,classes\na,cat;cup\n")
    run(*given, "dry_run=true", code=2)
    assert (
        "image a shows cat;cup in tags.csv and person;cup in mine: correct tags.corrections or"
        " masks.corrections"
    ) in run.errors
    table.write_text("id,classes\na,\n")
    run(*given, "dry_run=true", code=2)
    assert "image a shows nothing in tags.csv" in run.errors
    # Where masks read no tags, both stand side by side.
    run(*given, "dry_run=true", "masks=dense", "cams=sclip")
    table.write_text("id,classes\na,cup;person\nb,cat\n")
    run(*given)
    found = tags_of(tmp_path / "out")
    assert (found["a"], found["b"], found["holiday 2026/e f"]) == ([1, 3], [0], [0])
    legends = {about["what"]: about for about in manifest_of(tmp_path / "out")["legend"].values()}
    assert legends["tags"]["file"] == "tags.csv and mine" and legends["tags"]["images"] == 3
    assert legends["masks"]["file"] == "mine" and legends["masks"]["images"] == 2


@pytest.mark.parametrize("damage", ["cut short", "another size", "a folder", "unknown label"])
def test_a_mask_that_cannot_be_used_leaves_out_its_image(damage, run, mine, tmp_path):
    path = mine / "a.png"
    if damage == "another size":
        keep(mine, "a", np.ones((9, 9), np.uint8))
    elif damage == "unknown label":
        keep(mine, "a", draw("a", 77))
    else:
        content = path.read_bytes()
        path.unlink()
        path.mkdir() if damage == "a folder" else path.write_bytes(content[:40])
    run(UP_TO_MASKS, f"masks.corrections={mine}")
    assert re.search("left out: a: its mask cannot be used: .*a.png", run.errors)
    folder = latest(tmp_path / "out", "masks")
    assert not (folder / "a.png").exists() and "Traceback" not in run.errors
    assert (read_labels(folder / "holiday 2026/e f.png") == draw("holiday 2026/e f", 1)).all()
    assert (folder / "b.png").is_file()


@pytest.mark.parametrize("keeps", ["true", "false"])
def test_later_rounds_keep_corrected_masks(keeps, run, mine, tmp_path):
    rounds = [
        *TINY_SEGMENTER,
        "segmenter.pretrained=none",
        "rounds=2",
        "stage=[tags,cams,masks,train]",
    ]
    rounds += [f"self_training.keep_tags={keeps}", f"masks.corrections={mine}"]
    run(*rounds)
    out, manifest = tmp_path / "out", manifest_of(tmp_path / "out")
    assert manifest["configuration"]["method"] == "segmenter"
    assert "masks" in {about["what"] for about in manifest["legend"].values()}
    assert (read_labels(latest(out, "masks") / "a.png") == draw("a", 2, 4)).all()
    assert tags_of(out)["a"] == [1, 3]
    before = artefacts(out)
    counts = run(*rounds)
    assert all(computed == 0 for computed, *_ in counts.values()) and artefacts(out) == before
    network = latest(out, "segmenter", "").resolve()
    keep(mine, "a", draw("a", 2, 4, margin=12))
    run(*rounds)
    assert latest(out, "segmenter", "").resolve() != network
    assert (read_labels(latest(out, "masks") / "a.png") == draw("a", 2, 4, margin=12)).all()


def test_figures_status_and_report_name_the_masks(run, run_stage, mine, tmp_path):
    for image_id in SIZES:
        keep(tmp_path / "truth", image_id, draw(image_id, 1))
    given = [f"masks.corrections={mine}", f"dataset.masks={tmp_path / 'truth'}"]
    run(UP_TO_MASKS)
    run(*given, "stage=[tags,cams,masks,evaluate,report]")
    latest_figures = json.loads((tmp_path / "out/metrics.json").read_text())["latest"]
    said = {stage: latest_figures[stage]["all"]["corrections"] for stage in ("tags", "masks")}
    assert said["tags"].startswith("tags of 2 images in mine of 20")
    assert said["masks"].startswith("masks of 2 images in mine of 20")
    assert ", tags of 2 images in mine of 20" in said["masks"]
    tables = (tmp_path / "out/tables.md").read_text()
    assert re.search("masks.*, corrected by hand", tables)
    assert f"Corrected by hand: {said['masks']}." in tables
    assert f"all: corrected by hand ({said['tags']})." in tables
    status = run_stage("stage=status", f"output_dir={tmp_path / 'out'}")
    assert "corrections=masks of 2 images in mine" in status.output.replace("\n", "")
    page = (tmp_path / "out/report.html").read_text()
    command = page.partition('<code id="command">')[2].partition("</code>")[0]
    assert f"masks.corrections={mine}" in command


@pytest.fixture
def demo(run_stage, tmp_path):
    """Plans the demo, which has several splits, with the corrections in a folder."""

    def plan(*more: str):
        given = ["dataset=demo", "clip=demo", "tags=ground_truth", "dataset.limit=2"]
        given += [f"output_dir={tmp_path / 'out'}", f"masks.corrections={tmp_path / 'mine'}"]
        return run_stage(*given, "dry_run=true", *more)

    return plan


def test_of_several_splits_some_may_be_corrected(demo, tmp_path):
    mask = np.ones((240, 320), np.uint8)
    keep(tmp_path / "mine", "00001", mask)
    for stage in ("masks", "evaluate"):
        both = demo("dataset.split=[train,val]", f"stage={stage}")
        assert both.code == 2 and "holds neither train/ nor train.json" in both.errors
    assert demo("dataset.split=train", UP_TO_MASKS).code == 0
    # Of a split that the run does not work on, it matters where its masks are trained on.
    keep(tmp_path / "mine", "00100", mask)
    (tmp_path / "mine" / "00001.png").unlink()
    assert demo("dataset.split=val", UP_TO_MASKS).code == 0
    train = demo("dataset.split=val", "stage=train")
    assert train.code == 2 and "holds neither train/ nor train.json" in train.errors
    (tmp_path / "mine" / "00100.png").unlink()
    empty = demo("dataset.split=train", UP_TO_MASKS)
    assert empty.code == 2 and "mine holds no mask: save one there" in empty.errors
    keep(tmp_path / "mine" / "train", "00001", mask)
    assert demo("dataset.split=[train,val]", UP_TO_MASKS).code == 0


def test_a_labeller_has_no_split_to_correct(tiny_checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"masks.corrections names images of a split"):
        Labeller(["cat"], checkpoint=tiny_checkpoint, overrides=[f"masks.corrections={tmp_path}"])


# Training


def test_an_epoch_shows_corrected_images_several_times(pairs, tmp_path):
    from dataclasses import replace

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
    assert isinstance(pairs[0], TrainingPair) and pairs[0].repeats == 1


def test_the_key_of_a_training_holds_repetitions_of_corrected_images_alone(
    run, arguments, mine, tmp_path
):
    network = [*TINY_SEGMENTER, "segmenter.pretrained=none", "stage=[tags,cams,masks,train]"]
    run(*network)
    plain = latest(tmp_path / "out", "segmenter", "").resolve()
    run(*network, "segmenter.repeat_corrected=3")
    assert latest(tmp_path / "out", "segmenter", "").resolve() == plain
    assert "segmenter.repeat_corrected has no effect without masks.corrections" in run.errors
    found = set()
    for repeats in (1, 3):
        run(*network, f"masks.corrections={mine}", f"segmenter.repeat_corrected={repeats}")
        path = latest(tmp_path / "out", "segmenter", "") / "manifest.json"
        manifest = json.loads(path.read_text())
        assert manifest["configuration"]["repeat_corrected"] == repeats
        assert manifest["images"] == 5 and "5 images, " in run.output, "images count once"
        found.add(manifest["key"])
    assert len(found) == 2
    given = [*arguments, *network, f"masks.corrections={mine}", "segmenter.repeat_corrected=3"]
    stages = Pipeline.open(read_config(compose(given))).builder.stages
    (training,) = (stage for stage in stages if stage.name == "segmenter")
    repeats = {pair.id: pair.repeats for pair in training.pairs}
    assert repeats == {image_id: 3 if image_id[0] in "ah" else 1 for image_id in SIZES}
    run(*network, "dry_run=true")
    assert "repeat_corrected" not in run.errors, "the default needs no corrected masks"
    run(*network, f"segmenter.masks={mine}", f"masks.corrections={mine}", "dry_run=true",
        "segmenter.repeat_corrected=3", "dataset.limit=1")  # fmt: skip
    assert "segmenter.repeat_corrected has no effect with segmenter.masks" in run.errors


def test_masks_that_cannot_be_known_are_refused_where_a_key_depends_on_them():
    masks = Corrections(error=UserError("which split?"))
    assert not masks.tags
    with pytest.raises(UserError, match="which split"):
        masks.facts  # noqa: B018
    with pytest.raises(UserError, match="which split"):
        masks.tags_beside(Corrections(), ()).facts  # noqa: B018


def test_stages_of_a_worker_hold_no_masks(arguments, mine):
    import pickle

    config = read_config(compose([*arguments, f"masks.corrections={mine}"]))
    stage = next(s for s in Pipeline.open(config).builder.stages if s.name == "masks")
    assert len(stage.corrected.masks) == 2
    assert not pickle.loads(pickle.dumps(stage)).corrected.masks
