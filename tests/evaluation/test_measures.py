"""What evaluate measures: the choice of β, coarser levels, classes that cover everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams, encode_cams
from pipeline.datasets.ground_truth import MaskFile
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Sample
from pipeline.engine.store import Store
from pipeline.evaluation.measures import (
    EvaluationInputs,
    evaluate_cams,
    evaluate_labels,
    evaluate_masks,
    evaluate_tags,
)
from pipeline.files.images import encode_png
from pipeline.masks.labels import UNFILTERED
from pipeline.tags.scores import tags_output
from tests.results import open_writer, write

ANIMALS = [{"name": name, "parent": "animal"} for name in ("cat", "dog")]
VOCABULARY = build_vocabulary(VocabularySettings(classes=[*ANIMALS, "car"]))


@pytest.fixture
def measured(tmp_path):
    """An image whose left half is a cat (map 0.6, and 0.3 beside it), with its maps stored."""
    truth = np.zeros((4, 8), np.uint8)
    truth[:, :4] = 1
    Image.fromarray(truth).save(tmp_path / "truth.png")
    sample = Sample("a", tmp_path / "a.jpg", MaskFile(tmp_path / "truth.png"))
    maps = np.where(truth == 1, 0.6, 0.3).astype(np.float16)[None]
    folder = open_writer(tmp_path / "outputs", "val", "cams", {})
    with folder:
        cams = Cams(np.array([0]), maps, (4, 8))
        write(folder, "a", {"photograph": "input"}, {"a.npz": encode_cams(cams)})
    return EvaluationInputs([sample], folder.results, VOCABULARY)


def test_the_better_background_is_chosen_by_ground_truth_and_says_so(measured):
    single = evaluate_cams(measured, [1])
    assert single["miou"] == 1 and "background_beta" not in single
    # With β=2 the background has 0.16 and 0.49; with β=4 it loses the right half to the cat.
    both = evaluate_cams(measured, [4, 1])
    assert both["miou"] == 1 and both["background_beta"] == 1
    worse = evaluate_cams(measured, [4])["miou"]
    assert both["chosen_by_ground_truth"] == {"4": worse, "1": 1.0} and worse < 0.5


def test_without_a_background_the_best_map_is_the_label(measured):
    found = evaluate_cams(measured, [None])
    assert found["per_class"]["cat"]["iou"] == pytest.approx(0.5)
    assert found["per_class"]["background"]["iou"] == 0


def test_masks_are_measured_before_the_filter_and_its_share_after(tmp_path):
    truth, labels = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 3]], np.uint8)
    filtered = np.array([[0, 0, 1, 255]], np.uint8)
    Image.fromarray(truth).save(tmp_path / "a.png")
    Image.fromarray(truth[:, :2]).save(tmp_path / "of another size.png")
    with open_writer(tmp_path / "outputs", "val", "masks", {}) as folder:
        for image_id, stored in (("a", filtered), ("of another size", filtered + 1)):
            files = {f"{image_id}.png": encode_png(stored, VOCABULARY.palette)}
            files[f"{UNFILTERED}/{image_id}.png"] = encode_png(labels, VOCABULARY.palette)
            write(folder, image_id, {"photograph": "input"}, files)
    samples = [
        Sample(i, tmp_path / i, MaskFile(tmp_path / f"{i}.png")) for i in folder.results.entries
    ]
    inputs = EvaluationInputs(samples, folder.results, VOCABULARY)
    found = evaluate_masks(inputs)
    assert (found["images"], found["left_out"], found["kept"]) == (1, 1, 3 / 4)
    assert found["miou"] == pytest.approx(3 / 4)
    assert list(inputs.unusable) == ["of another size"]
    assert evaluate_masks(replace(inputs, samples=samples[1:])) is None


def test_pixels_that_given_masks_ignore_are_measured_as_background(tmp_path):
    truth, labels = np.array([[0, 0, 1, 1]], np.uint8), np.array([[255, 0, 1, 255]], np.uint8)
    Image.fromarray(truth).save(tmp_path / "a.png")
    with open_writer(tmp_path / "outputs", "val", "masks", {}) as folder:
        files = {"a.png": encode_png(labels, VOCABULARY.palette)}
        write(folder, "a", {"photograph": "input"}, files)
    samples = [Sample("a", tmp_path / "a", MaskFile(tmp_path / "a.png"))]
    found = evaluate_masks(EvaluationInputs(samples, folder.results, VOCABULARY))
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2) and found["kept"] == 1 / 2


def test_predictions_are_measured_beside_their_steps(tmp_path):
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    Image.fromarray(truth).save(tmp_path / "truth.png")
    samples = [Sample(i, tmp_path / i, MaskFile(tmp_path / "truth.png")) for i in "ab"]
    images = {"": truth, "single": np.zeros_like(truth)}
    png = {name: encode_png(labels, VOCABULARY.palette) for name, labels in images.items()}
    store = Store(tmp_path / "outputs")
    with open_writer(store, "val", "predictions", {}) as folder:
        for i in "ab":
            files = {f"{i}.png": png[""], f".single/{i}.png": png["single"]}
            write(folder, i, {"photograph": "input"}, files)
    inputs = EvaluationInputs(samples, folder.results, VOCABULARY)
    found = evaluate_labels(inputs, ["single"])
    assert (found["images"], found["miou"]) == (2, 1)
    assert found["variants"] == {
        "single": dict.fromkeys(("miou", "miou_union", "miou_images"), pytest.approx(1 / 4)),
    }
    assert evaluate_labels(inputs)["variants"] == {}
    assert evaluate_labels(replace(inputs, samples=[]), ["single"]) is None


def test_maps_are_also_measured_one_level_up(measured):
    level = evaluate_cams(measured, [1])["levels"][0]
    assert list(level["per_class"]) == ["background", "animal", "car"]
    assert level["per_class"]["animal"]["iou"] == 1 and level["per_class"]["car"]["iou"] is None


def test_tags_are_also_measured_one_level_up(tmp_path):
    folder = open_writer(tmp_path, "val", "tags", {})
    scores = {"a": [0.2, 0.9, 0.1], "b": [0.8, 0.1, 0.85], "c": [0.1, 0.2, 0.7]}
    truth = {"a": (0,), "b": (0,), "c": (2,)}
    with folder:
        for image_id, values in scores.items():
            encoded = tags_output([], {"scores": np.array(values)}).values["scores"]
            tags = [int(np.argmax(values))]
            write(folder, image_id, {"photograph": "input"}, {}, tags=tags, scores=encoded)
    samples = [Sample(i, tmp_path / i, labels=labels) for i, labels in truth.items()]
    inputs = EvaluationInputs(samples, folder.results, VOCABULARY)
    found = evaluate_tags(inputs)
    # A dog that is a cat is a mistake among classes, and none among their parents.
    assert found["per_class"]["cat"]["ap"] == pytest.approx(1)
    assert found["precision"] == pytest.approx(1 / 3)
    assert (found["map"], found["map_classes"]) == (pytest.approx(3 / 4), 2)  # no image has a dog
    found = evaluate_tags(inputs, absent_as_zero=True)
    assert (found["map"], found["map_classes"]) == (pytest.approx(1 / 2), 3)
    (level,) = found["levels"]
    assert list(level["per_class"]) == ["animal", "car"]
    assert level["precision"] == pytest.approx(2 / 3)
    assert level["per_class"]["animal"] == {"ap": pytest.approx(1), "positives": 2}
    assert level["per_class"]["car"]["ap"] == pytest.approx(1 / 2)


def test_two_figures_are_of_the_same_images_if_ids_and_photographs_are(tmp_path):
    Image.fromarray(truth := np.zeros((4, 8), np.uint8)).save(tmp_path / "truth.png")
    maps = encode_cams(Cams(np.array([0]), np.ones((1, 4, 8), np.float16), truth.shape))

    def image_set(photographs: dict[str, str], *, cams: bool) -> str:
        store = Store(tmp_path / "-".join(photographs.values()) / str(cams))
        samples = [Sample(i, tmp_path / i, MaskFile(tmp_path / "truth.png")) for i in photographs]
        with open_writer(store, "val", "cams" if cams else "tags", {}) as folder:
            for image_id, photograph in photographs.items():
                scores = tags_output([0], {"scores": np.ones(3)}).values
                files = {f"{image_id}.npz": maps} if cams else {}
                # What a stage makes of a photograph depends on more than that.
                inputs = {"photograph": photograph, "tags": f"{cams}"}
                write(folder, image_id, inputs, files, **scores)
        inputs = EvaluationInputs(samples, folder.results, VOCABULARY)
        return (evaluate_cams(inputs, [1]) if cams else evaluate_tags(inputs))["image_set"]

    one = image_set({"a": "p1", "b": "p2"}, cams=False)
    assert one == image_set({"b": "p2", "a": "p1"}, cams=True)
    for other in ({"a": "p1"}, {"a": "p1", "b": "p3"}, {"a": "p1", "c": "p2"}):
        assert image_set(other, cams=False) != one
