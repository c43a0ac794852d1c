"""Pascal Context: PNGs, or the JSON that they are made from."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.files.label_images import read_labels
from tests.datasets.miniatures import CONTEXT_LABELS, context_json, copy_of, load, striped


@pytest.fixture
def annotated(context, tmp_path):
    """VOC 2010 without PNGs, and what the JSON holds."""
    root = copy_of(context, tmp_path)
    shutil.rmtree(root / "SegmentationClassContext")
    return root, context_json()


def read(root, content, split="val"):
    path = root / "trainval_merged.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load("context60", root.parent).splits[split]


@pytest.mark.parametrize(("name", "zero"), [("context60", 0), ("context59", 255)])
def test_zero_is_the_background_or_ignored(context, name, zero):
    dataset = load(name, context)
    assert len(dataset.vocabulary.classes) == 59 and dataset.vocabulary.classes[36] == "person"
    assert [sample.id for sample in dataset.splits["val"]] == [*CONTEXT_LABELS][1:]
    for number, sample in enumerate(dataset.splits["val"], 1):
        stored = striped(number, CONTEXT_LABELS[sample.id])
        np.testing.assert_array_equal(sample.mask.read(), np.where(stored == 0, zero, stored))


def test_fewer_classes_are_refused_by_name(annotated):
    root, content = annotated
    path = root / "trainval_merged.json"
    path.write_text(json.dumps(content))
    dataset = load("context60", root, annotations=str(path), classes=["cat", "dog"])
    with pytest.raises(UserError, match="not one of 2 classes: .*all 59 classes"):
        _ = dataset.splits["val"]


def test_a_missing_mask_is_named(context, tmp_path):
    root = copy_of(context, tmp_path)
    (root / "SegmentationClassContext" / "2008_000002.png").unlink()
    found = {sample.id: sample.mask for sample in load("context60", root).splits["val"]}
    assert found["2008_000001"].read().any()
    with pytest.raises(UserError, match=r"2008_000002.png is missing"):
        found["2008_000002"].read()


def test_annotations_are_painted_in_the_order_of_the_file(annotated):
    for split, count in {"train": 1, "val": 2}.items():
        samples = read(*annotated, split)
        assert len(samples) == count and all(sample.image.is_file() for sample in samples)
        for sample in samples:
            number = [*CONTEXT_LABELS].index(sample.id)
            painted = striped(number, CONTEXT_LABELS[sample.id])
            np.testing.assert_array_equal(sample.mask.read(), painted)
            assert sample.ground_truth_labels == tuple(np.unique(painted[painted > 0]) - 1)


def test_an_edited_annotation_changes_the_ground_truth_of_its_image_alone(annotated):
    root, content = annotated
    before = [sample.mask.contents for sample in read(root, content)]
    content["annos_segmentation"][-1]["category_id"] = 2
    after = [sample.mask.contents for sample in read(root, content)]
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.large
def test_only_what_was_edited_is_computed_and_measured_anew(
    annotated, run_stage, run_tool, tmp_path
):
    root, content = annotated
    path, out = root / "trainval_merged.json", tmp_path / "out"
    given = "dataset=context60", f"dataset.root={root}", f"dataset.annotations={path}", "clip=demo"
    given += "dataset.split=[train,val]", f"output_dir={out}"
    for computed in (3, 1):
        if computed == 1:
            content["annos_segmentation"][-1]["category_id"] = 2
        path.write_text(json.dumps(content))
        table = run_tool("make_tables.py", out, "--leaderboard")
        assert computed == 3 or "photographs or ground truth changed" in table.errors
        finished = run_stage(*given, "stage=[tags,evaluate]")
        assert finished.code == 0, finished.errors
        finished = run_stage(*given, "masks=ground_truth", "stage=masks")
        assert finished.code == 0, finished.errors
        counts = re.findall(r"(\d+) computed now, (\d+) from the cache", finished.output)
        assert [sum(map(int, each)) for each in zip(*counts)] == [computed, 3 - computed]
        table = run_tool("make_tables.py", out, "--leaderboard")
        assert table.code == 0 and "changed" not in table.errors
    written = read_labels(next((out / "val" / "masks").rglob("2008_000002.png")))
    assert {*np.unique(written)} == {1, 59}, "31 became category 2, an aeroplane"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda c: c["annos_segmentation"][0].update(category_id=3),
            "category 3, not one of 59 classes",
        ),
        (lambda c: c["annos_segmentation"][1].update(id=0), "holds one id twice"),
        (lambda c: c["images"][1].update(image_id=0), "holds one image_id twice"),
        (
            lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"]),
            "holds one file_name twice",
        ),
        (
            lambda c: c["images"][1].update(file_name="x/2008_000003.png"),
            "holds one file_name twice",
        ),
        (
            lambda c: c["annos_segmentation"][0].update(category_id="2"),
            "category '2', not one of 59",
        ),
        (lambda c: c["images"][1].pop("phase"), "is not Pascal Context's JSON"),
        (lambda c: c["images"][1].update(width=-1), "is not Pascal Context's JSON"),
        (lambda c: c["images"][1].update(file_name="../x.jpg"), "is not Pascal Context's JSON"),
        (lambda c: c["annos_segmentation"][0].update(image_id=9), "is not Pascal Context's JSON"),
    ],
)
def test_what_the_converter_would_misread_is_one_sentence(annotated, edit, sentence):
    root, content = annotated
    edit(content)
    with pytest.raises(UserError, match=sentence):
        read(root, content)


def test_a_file_without_the_split_is_one_sentence(annotated):
    root, content = annotated
    content["images"] = [each for each in content["images"] if each["phase"] == "train"]
    content["annos_segmentation"] = content["annos_segmentation"][:2]
    assert len(read(root, content, "train")) == 1
    with pytest.raises(UserError, match="no image of phase val: give trainval_merged"):
        read(root, content)


def test_a_cut_file_is_one_sentence(annotated):
    root, content = annotated
    with pytest.raises(UserError, match=r"trainval_merged.json is not Pascal Context's JSON"):
        read(root, json.dumps(content)[:-20])
    (root / "trainval_merged.json").unlink()
    for given in (None, "nowhere.json"):
        with pytest.raises(UserError, match=rf"{given or 'merged.json'}.* download.py fetches it"):
            _ = load("context60", root, annotations=given).splits["val"]


def test_the_json_gives_the_masks_of_the_released_converter(golden_folder):
    root = golden_folder / "benchmark_sets" / "pascal_context"
    of_json = load("context60", root, annotations=str(root / "trainval_merged.json")).splits
    for split, samples in load("context60", root).splits.items():
        assert [s.id for s in samples] == [s.id for s in of_json[split]]
        for sample, other in zip(samples, of_json[split]):
            path = root / "VOC2010" / "SegmentationClassContext" / f"{sample.id}.png"
            np.testing.assert_array_equal(other.mask.read(), np.array(Image.open(path)))
            np.testing.assert_array_equal(sample.mask.read(), other.mask.read())
