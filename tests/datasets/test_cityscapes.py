"""Cityscapes: cities below the splits, and labelIds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from tests.datasets.miniatures import CITIES, copy_of, load, striped

TRAIN_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def id_of(name):
    return f"{name.partition('_')[0]}/{name}_leftImg8bit"


def test_label_ids_are_mapped_and_the_others_ignored(cityscapes):
    dataset = load("cityscapes", cityscapes)
    found = {split: [sample.id for sample in dataset.splits[split]] for split in dataset.splits}
    assert found == {split: [*map(id_of, names)] for split, names in CITIES.items()}
    for number, sample in enumerate(dataset.splits["val"], 1):
        assert sample.image.is_file()
        stored = striped(number, [7, number, 26, 33])
        expected = np.full_like(stored, 255)
        for label, value in enumerate(TRAIN_IDS, 1):
            expected[stored == value] = label
        np.testing.assert_array_equal(sample.mask.read(), expected)
    assert all(sample.mask is None for sample in dataset.splits["test"]), "its labels are blank"


def test_label_train_ids_beside_them_are_left_alone(cityscapes, tmp_path):
    root = copy_of(cityscapes, tmp_path)
    maps = root / "gtFine" / "val" / "lindau"
    blank = Image.fromarray(np.zeros((48, 72), np.uint8))
    blank.save(maps / "lindau_000000_000019_gtFine_labelTrainIds.png")
    before, after = (load("cityscapes", each).splits["val"] for each in (cityscapes, root))
    assert [s.id for s in before] == [s.id for s in after]
    np.testing.assert_array_equal(before[2].mask.read(), after[2].mask.read())


def test_a_missing_map_and_an_empty_city_are_named(cityscapes, tmp_path, capsys):
    root = copy_of(cityscapes, tmp_path)
    name = "frankfurt_000001_001016"
    (root / "gtFine" / "val" / "frankfurt" / f"{name}_gtFine_labelIds.png").unlink()
    (root / "leftImg8bit" / "val" / "ulm").mkdir()
    samples = load("cityscapes", root).splits["val"]
    assert [sample.id for sample in samples] == [*map(id_of, CITIES["val"])]
    assert "ulm holds no image" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"{name}.*missing"):
        samples[1].mask.read()
    assert samples[0].mask.read().max() == 255, "the others can be read"


def test_a_split_without_cities_is_one_sentence(cityscapes, tmp_path):
    root = copy_of(cityscapes, tmp_path)
    shutil.rmtree(root / "leftImg8bit" / "val")
    (root / "leftImg8bit" / "val").mkdir()
    with pytest.raises(UserError, match=r"val holds no city with images: docs/data-sets.md"):
        _ = load("cityscapes", root).splits["val"]


@pytest.mark.large
def test_maps_that_do_not_fit_are_left_out_by_name(cityscapes, run_stage, tmp_path):
    root = copy_of(cityscapes, tmp_path)
    missing, cut, _ = CITIES["val"]
    folder = root / "gtFine" / "val" / "frankfurt"
    (folder / f"{missing}_gtFine_labelIds.png").unlink()
    path = folder / f"{cut}_gtFine_labelIds.png"
    Image.open(path).crop((0, 0, 40, 30)).save(path)
    output = tmp_path / "out"
    given = "dataset=cityscapes", f"dataset.root={root}", "dataset.split=val", "clip=demo"
    finished = run_stage(*given, "stage=[tags,cams,evaluate]", f"output_dir={output}")
    assert finished.code == 0, finished.errors
    assert f"{missing}_gtFine_labelIds.png is missing" in finished.errors
    assert f"{id_of(cut)}: its ground-truth mask has 40×30 pixels" in finished.errors
    runs = json.loads((output / "metrics.json").read_text())["runs"]
    assert {run["stage"]: run["images"] for run in runs} == {"tags": 2, "cams": 1}


def test_ids_are_paths_by_which_lists_and_tools_find_photographs(
    cityscapes, run_stage, run_tool, tmp_path
):
    files = [f"{id_of(name)}.png" for name in CITIES["val"][::2]]
    (tmp_path / "val.txt").write_text("\n".join(files))
    given = "dataset=cityscapes", f"dataset.root={cityscapes}", "dataset.split=val", "clip=demo"
    given = *given, f"dataset.image_list={tmp_path}/val.txt", f"output_dir={tmp_path}/out"
    finished = run_stage(*given, "stage=masks", "masks=ground_truth")
    assert finished.code == 0, finished.errors
    masks, target = tmp_path / "out" / "val" / "masks" / "latest", tmp_path / "annotations.json"
    images = "--images", cityscapes / "leftImg8bit" / "val"
    finished = run_tool("export.py", masks, "--format", "coco", "--output", target, *images)
    assert finished.code == 0, finished.errors
    assert [each["file_name"] for each in json.loads(target.read_text())["images"]] == files
    finished = run_tool("overlay.py", masks, "--output", tmp_path / "overlays", *images)
    assert finished.code == 0 and "2 overlays" in finished.output, finished.errors


def test_released_labels_are_ours(golden_folder):
    root = golden_folder / "benchmark_sets" / "cityscapes"
    splits = load("cityscapes", root).splits
    for sample in (each for split in ("train", "val") for each in splits[split]):
        name = sample.image.name.removesuffix("_leftImg8bit.png")
        path = root / "expected_labelTrainIds" / f"{name}.png"
        expected = np.array(Image.open(path)).astype(int)
        np.testing.assert_array_equal(
            sample.mask.read(), np.where(expected == 255, 255, expected + 1)
        )
