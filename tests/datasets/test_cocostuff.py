"""COCO-Stuff's pixel maps, its 171 classes, and the 27 coarse ones."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.errors import UserError
from tests.datasets.miniature_coco import STUFF_VALUES, build_cocostuff, coco_names
from tests.datasets.miniatures import copy_of, load, settings_of, size_of, striped

GAPS = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
"""The numbers from 1 to 182 that no class has."""


@pytest.fixture(scope="session")
def facts(shared_data):
    """The published names; a user does not have them."""
    text = shared_data("vocabulary.yaml").read_text(encoding="utf-8")
    return yaml.load(text, yaml.CSafeLoader)


def test_values_of_the_pixel_maps_are_cocos_ids_less_one(tmp_path):
    values = settings_of("cocostuff", tmp_path)["values"]
    assert values == [i - 1 for i in range(1, 183) if i not in GAPS]


def test_every_value_becomes_its_class(tmp_path):
    root = build_cocostuff(tmp_path)
    path = root / "stuffthingmaps" / "val2017" / f"{coco_names('val2017')[0]}.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32)).save(path)
    dataset = load("cocostuff", root)
    sample = dataset.splits["val"][0]
    labels = sample.mask.read().ravel()
    classes = dataset.vocabulary.classes
    assert [classes[labels[v] - 1] for v in (0, 10, 12, 89, 91, 181)] == [
        "person",
        "fire hydrant",
        "stop sign",
        "toothbrush",
        "banner",
        "wood",
    ]
    assert labels[0] == 1 and labels[10] == 11 and labels[12] == 12 and labels[181] == 171
    assert {*np.flatnonzero(labels == 255)} == {*(i - 1 for i in GAPS), *range(182, 256)}
    assert sample.ground_truth_labels == tuple(range(171))


def test_classes_and_parents_are_the_published_ones(tmp_path, facts):
    settings = settings_of("cocostuff", tmp_path)
    published = facts["cocostuff"]
    assert settings["classes"] == published["tag_names"]
    assert settings["cam_names"] == published["cam_names"]
    assert settings["backgrounds"] == published["backgrounds"] == []
    assert [v + 1 for v in settings["values"]] == published["ids_182"]
    coarse = published["coarse_27"]
    assert settings["parents"] == [coarse[k] for k in published["coarse_of_171"]]
    assert set(settings["parents"]) == set(coarse) and len(coarse) == 27


@pytest.mark.parametrize(
    ("name", "key"),
    [("voc2007", "voc"), ("voc2012", "voc"), ("coco2014", "coco"), ("coco2017", "coco")],
)
def test_names_of_voc_and_coco_are_the_published_ones(tmp_path, facts, name, key):
    settings = settings_of(name, tmp_path)
    assert settings["classes"] == facts[key]["tag_names"]
    assert settings["cam_names"] == facts[key]["cam_names"]
    assert settings["backgrounds"] == facts[key]["backgrounds"]


def test_there_are_171_classes_in_27(cocostuff):
    vocabulary = load("cocostuff", cocostuff).vocabulary
    assert len(vocabulary.classes) == 171 and len(vocabulary.backgrounds) == 0
    [coarse] = vocabulary.levels
    assert len(coarse) == 171 and len(set(coarse)) == 27
    parent = dict(zip(vocabulary.classes, coarse))
    assert parent["person"] == "person" and parent["truck"] == "vehicle"
    assert parent["wall-brick"] == "wall" and parent["sky-other"] == "sky"


def test_images_and_labels_are_those_of_the_maps(cocostuff):
    dataset = load("cocostuff", cocostuff)
    assert list(dataset.splits) == ["val"]
    samples = dataset.splits["val"]
    # The files that mmsegmentation's converter leaves beside the maps are not images.
    assert [s.id for s in samples] == coco_names("val2017")[: len(STUFF_VALUES)]
    assert all(s.image.is_file() for s in samples)
    values = settings_of("cocostuff", cocostuff)["values"]
    for index, (sample, held) in enumerate(zip(samples, STUFF_VALUES)):
        assert sample.ground_truth_labels == tuple(values.index(v) for v in held if v != 255)
        mask = sample.mask.read()
        assert mask.shape == size_of(index)
        np.testing.assert_array_equal(mask == 255, striped(index, held) == 255)


@pytest.mark.parametrize("folder", ["annotations", "stuffthingmaps"])
def test_the_maps_may_lie_in_other_folders(cocostuff, tmp_path, folder):
    root = copy_of(cocostuff, tmp_path)
    (root / "stuffthingmaps").rename(root / folder)
    assert len(load("cocostuff", root).splits["val"]) == len(STUFF_VALUES)


def test_maps_without_images_matter_only_to_runs_on_their_split(cocostuff, tmp_path):
    root = copy_of(cocostuff, tmp_path)
    (root / "stuffthingmaps" / "train2017").mkdir()
    dataset = load("cocostuff", root)
    assert len(dataset.splits["val"]) == len(STUFF_VALUES)
    with pytest.raises(UserError, match="no train2017 .*COCO-Stuff"):
        _ = dataset.splits["train"]


def test_the_content_of_a_map_is_that_of_its_labels(cocostuff, tmp_path):
    first = load("cocostuff", cocostuff).splits["val"][0]
    turned = list(reversed(settings_of("cocostuff", cocostuff)["values"]))
    second = load("cocostuff", cocostuff, values=turned).splits["val"][0]
    assert (first.mask.read() != second.mask.read()).any()
    assert first.mask.contents != second.mask.contents, "another vocabulary"
    filled = load("cocostuff", cocostuff, other_values="background").splits["val"][0]
    assert filled.mask.contents != first.mask.contents

    root = copy_of(cocostuff, tmp_path)
    third = load("cocostuff", root).splits["val"][0]
    assert third.mask.contents == first.mask.contents, "the same map, wherever it lies"
    Image.fromarray(striped(0, [7])).save(third.mask.annotation.path)
    assert third.mask.contents != first.mask.contents
    assert set(np.unique(third.mask.read())) == {8}


def test_values_have_to_fit_the_classes(cocostuff):
    with pytest.raises(UserError, match="dataset.values holds 3 .* 171"):
        load("cocostuff", cocostuff, values=[1, 2, 3])
    names = {"classes": ["cat", "dog"], "cam_names": None, "parents": None}
    with pytest.raises(UserError, match="dataset.values holds 171 .* 2 cl"):
        load("cocostuff", cocostuff, **names)
    with pytest.raises(UserError, match="dataset.values holds a number twice"):
        load("cocostuff", cocostuff, values=[1, 1], **names)


def test_a_map_with_colours_is_named(cocostuff, tmp_path):
    root = copy_of(cocostuff, tmp_path)
    sample = load("cocostuff", root).splits["val"][0]
    Image.new("RGB", (4, 4)).save(sample.mask.annotation.path)
    with pytest.raises(
        UserError,
        match=rf"{sample.id}.png holds colour 0 0 0 \(16 pixels, .*: no class has it",
    ):
        sample.mask.read()
