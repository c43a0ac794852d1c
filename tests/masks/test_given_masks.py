"""``masks=file`` in a run: what is in the key, what an edit costs, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.vocabulary import voc_palette
from pipeline.files.label_images import read_labels
from tests.datasets.annotated import coco, labelme, labelme_mask, run_lengths, stroke, task
from tests.datasets.annotated import write as write_json
from tests.report.chains import cells
from tests.small_runs import TINY_SEGMENTER

NAMES = ["a", "b", "c", "d", "holiday 2026/e f"]
SUFFIXES = ["jpg", "png", "webp", "jpeg", "jpg"]
CLASSES = ["cat", "person", "rocket", "cup"]


def size(index: int) -> tuple[int, int]:
    return (64, 96) if index % 2 else (90, 70)


def pixels(index: int) -> np.ndarray:
    """Returns the mask of an image's only instance."""
    found = np.zeros(size(index), bool)
    found[10:40, 5 * index : 30 + 5 * index] = True
    return found


def data_set(**changes: object) -> dict:
    """Returns a data set of COCO's with an instance of class k in image k; image e has two."""
    content = coco([(f"{name}.{end}", []) for name, end in zip(NAMES, SUFFIXES)], CLASSES)
    for index, image in enumerate(content["images"]):
        image["height"], image["width"] = size(index)
        shape = {"category_id": 7 + index % 4, "segmentation": run_lengths(pixels(index))}
        content["annotations"].append({"id": index, "image_id": image["id"], **shape})
    return content | changes


@pytest.fixture
def run(run_stage, photographs, tmp_path):
    """Runs stages with masks of a file."""

    def run(path, *more, stage="masks"):
        return run_stage(
            *("dataset=folder", f"dataset.root={photographs}", "masks=file", f"masks.path={path}"),
            *(f"dataset.classes=[{','.join(CLASSES)}]", f"output_dir={tmp_path / 'out'}"),
            *("runtime.workers=1", f"stage={stage}", *more),
        )

    return run


def masks(tmp_path) -> dict[str, np.ndarray]:
    latest = tmp_path / "out" / "all" / "masks" / "latest"
    found = latest.resolve().rglob("*.png")
    return {
        p.relative_to(latest.resolve()).with_suffix("").as_posix(): read_labels(p) for p in found
    }


def computed(finished) -> int:
    """Returns how many masks a run computed."""
    assert finished.code == 0, finished.errors
    return finished.counts["masks"][0]


def test_a_changed_entry_costs_its_image_and_keys_hold_how_files_are_read(run, tmp_path):
    content = data_set()
    path = write_json(tmp_path / "given.json", content)
    finished = run(path)
    assert computed(finished) == 5 and "left out" not in finished.output
    for index, name in enumerate(NAMES):
        np.testing.assert_array_equal(masks(tmp_path)[name], pixels(index) * (1 + index % 4))
    manifest = json.loads(next((tmp_path / "out").glob("all/masks/*/manifest.json")).read_text())
    assert "given.json" in json.dumps(manifest["configuration"])

    assert computed(run(path)) == 0
    assert "nothing to compute: everything is in the cache" in run(path, "dry_run=true").output
    content["annotations"][1]["segmentation"] = run_lengths(~pixels(1))
    write_json(path, content)
    assert computed(run(path)) == 1
    np.testing.assert_array_equal(masks(tmp_path)["b"], ~pixels(1) * 2)
    content["info"] = "another date"
    for image in content["images"]:
        image["id"] += 7
    for annotation in content["annotations"]:
        annotation["image_id"] += 7
    write_json(path, content)
    assert computed(run(path)) == 0

    moved = tmp_path / "moved" / tmp_path.name
    moved.mkdir(parents=True)
    assert computed(run(path.rename(moved / path.name))) == 0
    keys = {(tmp_path / "out" / "all" / "masks" / "latest").resolve()}
    (moved / path.name).rename(path)
    table = tmp_path / "table.txt"
    table.write_text("1 2 3 cat\n")
    changes = (
        *("masks.join={cat: [kitten]}", "masks.min_score=0.5", "masks.values=[4,3,2,1]"),
        *("masks.palette=colour", f"masks.colours={table}"),
    )
    for change in changes:
        assert computed(run(path, change)) == 5, change
        keys.add((tmp_path / "out" / "all" / "masks" / "latest").resolve())
    assert computed(run(path.rename(tmp_path / "other.json"))) == 5, "two sources can be compared"
    assert len(keys) == 1 + len(changes)


def test_an_entry_that_becomes_unusable_takes_its_mask_along(run, tmp_path):
    content = data_set()
    path = write_json(tmp_path / "given.json", content)
    assert computed(run(path)) == 5
    content["images"].append(content["images"][0] | {"id": 999})
    content["annotations"].append(content["annotations"][1] | {"score": 2})
    write_json(path, content)
    finished = run(path, "runtime.max_failures=2")
    assert computed(finished) == 0 and masks(tmp_path).keys() == {*NAMES[2:]}
    for reason in ("a: its mask cannot be used: ", "b: its mask cannot be used: "):
        assert f"left out: {reason}" in finished.errors


def test_ground_truth_that_becomes_unusable_marks_what_was_measured_on_it(run, tmp_path):
    path = write_json(tmp_path / "given.json", data_set())
    truth = write_json(tmp_path / "truth.json", data_set())
    stages, given = "[masks,evaluate,report]", f"dataset.masks={truth}"
    said = "measured before its ground truth changed: run stage=evaluate"
    assert said not in run(path, given, stage=stages).output
    content = data_set()
    content["annotations"].append(content["annotations"][0] | {"score": 2})
    write_json(truth, content)
    assert run(path, given, stage="report").code == 0
    assert said in (tmp_path / "out" / "report.html").read_text()
    finished = run(path, given, "runtime.max_failures=1", stage=stages)
    assert finished.code == 0, finished.errors
    assert said not in (tmp_path / "out" / "report.html").read_text()


GDINO = "masks of a file gdino/masks.json"


def test_files_of_one_name_in_several_folders_are_rows_of_the_leaderboard(run, run_tool, tmp_path):
    """The masks of one method replaced those of another, and its row was gone."""
    truth = f"dataset.masks={write_json(tmp_path / 'truth.json', data_set())}"
    changed = data_set()
    changed["annotations"] = changed["annotations"][1:]
    contents = {"sam3": data_set(), "gdino": changed}
    for name, content in contents.items():
        path = write_json(tmp_path / name / "masks.json", content)
        assert computed(run(path, truth, stage="[masks,evaluate]")) == 5
    board = ["make_tables.py", tmp_path / "out", "--leaderboard"]
    rows = run_tool(*board).output
    found = {row[0]: row[1] for row in cells(rows)[1:]}
    assert found == {"masks of a file sam3/masks.json": "**100.0**", GDINO: "89.3"}
    assert "left out" not in rows
    path = write_json(tmp_path / "other" / "sam3" / "masks.json", changed)
    assert run(path, truth, f"output_dir={tmp_path / 'second'}", stage="[masks,evaluate]").code == 0
    rows = run_tool("make_tables.py", tmp_path / "out", tmp_path / "second", "--leaderboard").output
    assert "Left out are 1 result for which" in rows


def test_the_forms_of_a_folder_cost_one_image_each_as_well(run, photographs, tmp_path):
    pngs, drawn = tmp_path / "pngs", tmp_path / "drawn"
    for index, name in enumerate(NAMES):
        labels = (pixels(index) * (1 + index % 4)).astype(np.uint8)
        (pngs / name).parent.mkdir(parents=True, exist_ok=True)
        palette = np.array(voc_palette(256), np.uint8)
        kind = labels if index % 2 else palette[labels]
        Image.fromarray(kind).save(pngs / f"{name}.png")
        shape = labelme_mask(CLASSES[index % 4], pixels(index))
        write_json(drawn / f"{name}.json", labelme(shape, size=size(index)))
    for folder in (pngs, drawn):
        assert computed(run(folder)) == 5
        for index, name in enumerate(NAMES):
            np.testing.assert_array_equal(masks(tmp_path)[name], pixels(index) * (1 + index % 4))
    Image.fromarray(np.zeros(size(0), np.uint8)).save(pngs / "a.png")
    write_json(drawn / "a.json", labelme(size=size(0)))
    for folder in (pngs, drawn):
        assert computed(run(folder)) == 1 and not masks(tmp_path)["a"].any()
    strokes = [stroke(CLASSES[index % 4], pixels(index)) for index in range(5)]
    tasks = [
        task(f"/data/local-files/?d=photos/{name}.{end}", each)
        for name, end, each in zip(NAMES, SUFFIXES, strokes)
    ]
    assert computed(run(write_json(tmp_path / "tasks.json", tasks))) == 5
    np.testing.assert_array_equal(masks(tmp_path)["b"], pixels(1) * 2)


def test_images_without_an_entry_and_damaged_ones_are_left_out_by_name(run, tmp_path):
    content = data_set()
    content["images"][0]["file_name"] = "A.jpg"
    content["images"][1]["height"] += 1
    path = write_json(tmp_path / "given.json", content)
    finished = run(path, "runtime.max_failures=1")
    assert computed(finished) == 3 and "2 left out (1 without an entry)" in finished.output
    assert f"left out: a: has no entry in {path}" in finished.errors
    assert f"b: its mask cannot be used: {path} is of 96×65 pixels, and the image of 96×64" in (
        finished.errors
    )
    refused = run(path, "runtime.max_failures=0")
    assert refused.code == 2 and "1 of 4 images" in refused.errors

    for image in content["images"][1:3]:
        image["file_name"] = f"other/{image['file_name']}"
    few = run(write_json(path, content), "runtime.max_failures=9")
    assert few.code == 2 and few.errors.count("\n") == 1 and "Traceback" not in few.errors
    assert "2 of 5 images of split all have an entry, fewer than half: image a has" in few.errors


def test_a_dry_run_reads_the_masks_and_names_what_a_run_would_leave_out(run, tmp_path):
    for index, name in enumerate(NAMES):
        (tmp_path / "pngs" / name).parent.mkdir(parents=True, exist_ok=True)
        labels = np.full(size(index), 9 if name == "b" else 1, np.uint8)[int(name == "d") :]
        Image.fromarray(labels).save(tmp_path / "pngs" / f"{name}.png")
    planned = run(tmp_path / "pngs", "dry_run=true")
    assert planned.code == 0 and not (tmp_path / "out").exists()
    assert "masks will leave out 2 of 5 images, the first b: its mask cannot be" in planned.errors
    assert "holds label 9 (6144 pixels, the first at x=0, y=0), where labels are" in planned.errors
    (row,) = [line.split() for line in planned.output.splitlines() if line.startswith("│ masks")]
    assert row[5:10:2] == ["5", "0", "3"]
    assert computed(run(tmp_path / "pngs", "runtime.max_failures=2")) == 3


def test_all_computes_neither_tags_nor_cams(run, tmp_path):
    path = write_json(tmp_path / "given.json", data_set())
    planned = run(path, "dry_run=true", "segmenter=demo", stage="all")
    assert planned.code == 0, planned.errors
    stages = [line.split()[1] for line in planned.output.splitlines() if line.startswith("│")]
    assert stages[:2] == ["masks", "segmenter"] and not {"tags", "cams"} & {*stages}


def test_masks_of_a_brush_and_parts_of_masks_are_refused(run, tmp_path):
    folder = tmp_path / "pngs"
    for index, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(index).astype(np.uint8) * 255).save(folder / f"{name}.png")
    refused = run(folder)
    assert refused.code == 2 and refused.errors.count("\n") == 1
    assert "only 0 and 255: is 255 the object? if so, give masks.values=[255]" in refused.errors
    assert computed(run(folder, "masks.values=[255,1,2,3]")) == 5
    np.testing.assert_array_equal(masks(tmp_path)["a"], pixels(0))
    (folder / "task-1-annotation-1-by-1-label-cat-0.png").write_bytes(b"")
    refused = run(folder)
    assert refused.code == 2 and "each is a part of a mask: export JSON" in refused.errors


def test_masks_of_photographs_as_they_are_stored_or_turned_upright(run, photographs, tmp_path):
    turned = Image.open(photographs / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photographs / "a.jpg", exif=exif)
    path = write_json(tmp_path / "given.json", data_set())
    left_out = run(path, "runtime.max_failures=1")
    assert computed(left_out) == 4 and "of 70×90 pixels, and the image of 90×70" in left_out.errors
    assert computed(run(path, "compat.exif=true")) == 5


def test_of_several_splits_each_has_a_file_or_the_one_that_is_trained_on(run_stage, tmp_path):
    def run(path, *more, split="[train,val]"):
        given = ["dataset=demo", f"dataset.split={split}", "dataset.limit=2", *TINY_SEGMENTER]
        given += ["masks=file", f"masks.path={path}", f"output_dir={tmp_path / 'out'}", *more]
        return run_stage(*given)

    def planned(path):
        finished = run(path, "stage=masks", "dry_run=true")
        assert finished.code == 0, finished.errors
        return [line.split()[3] for line in finished.output.splitlines() if line.startswith("│")]

    disc = {"category_id": 7, "segmentation": [[10, 10, 90, 10, 90, 90]]}
    content = coco([("00000.png", [disc]), ("00001.png", [])], ["disc"], size=(320, 240))
    folder = tmp_path / "masks"
    path = write_json(folder / "train.json", content)
    refused = run(folder, "stage=masks", "dry_run=true")
    assert refused.code == 2 and "neither val/ nor val.json: with several splits" in refused.errors
    assert planned(path) == ["train"]
    crowded = "dataset=demo_crowded", "stage=masks", "dry_run=true"
    refused = run(path, *crowded, split="[choose,report]")
    assert refused.code == 2 and "holds neither choose/ nor choose.json" in refused.errors
    write_json(folder / "val.json", content)
    assert planned(folder) == ["train", "val"]

    finished = run(path, "stage=[masks,train,predict,evaluate,report]")
    assert finished.code == 0, finished.errors
    out = tmp_path / "out"
    assert {p.name for p in out.glob("val/*")} == {"predictions"} and (out / "train/masks").is_dir()
    latest = json.loads((out / "metrics.json").read_text())["latest"]
    assert {stage: {*splits} for stage, splits in latest.items()} == {
        "masks": {"train"},
        "predictions": {"train", "val"},
    }
    assert "prediction" in (out / "report.html").read_text()


def test_files_have_no_probabilities(run, tmp_path):
    finished = run(tmp_path, "masks.confidence=0.5", "dry_run=true")
    assert finished.code == 2 and "requires probabilities, which" in finished.errors


def test_damaged_files_are_one_sentence(run, tmp_path):
    path = tmp_path / "given.json"
    path.write_bytes(b'{"images": [')
    for more in ("dry_run=true", "dry_run=false"):
        finished = run(path, more)
        assert finished.code == 2 and finished.errors.count("\n") == 1
        assert finished.errors.startswith("error: ") and str(path) in finished.errors
    finished = run(tmp_path / "none.json")
    assert finished.code == 2 and "does not exist: give a folder" in finished.errors
