"""What the page is put together from: figures of images, the choice among them, pictures."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.sample import Sample
from pipeline.evaluation.metrics import Confusion
from pipeline.files.text import in_words
from pipeline.report.page import painting
from pipeline.report.page.diagrams import draw_confusion, find_confused
from pipeline.report.page.gallery import (
    BEST,
    DISAGREEING,
    DOUBTFUL,
    SAMPLE,
    WORST,
    choose_images,
    tag_rows,
)
from pipeline.report.page.images import ImageFigures, label_doubt, measure_images, tag_doubt
from pipeline.segmenter.self_training import SegmenterTags
from pipeline.segmenter.settings import SelfTrainingSettings, TestSettings
from pipeline.stages.builder import Builder
from pipeline.stages.config import compose, read_config
from pipeline.tags.stage import Tags

IDS = [f"{k}" for k in range(6)]


def figures(index, **known):
    return ImageFigures(Sample(f"{index:03d}", None), **known)


def picture(address):
    """Returns an embedded picture as H×W×4."""
    kind, _, data = address.partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


def test_images_are_measured_like_the_data_set(build):
    measured = measure_images(build(IDS, ["a", "b"]))
    first, later = measured.images[0], measured.images[4]
    assert first.mask_iou == 1 and first.prediction_iou == 1 and first.disagreement == 0
    # 4 of 24 columns of 32 rows are missing in 48×64 pixels.
    background = (48 * 64 - 24 * 32) / (48 * 64 - 20 * 32)
    assert later.prediction_iou == pytest.approx((20 / 24 + background) / 2)
    assert later.disagreement == pytest.approx(4 * 32 / (48 * 64))
    assert later.iou == later.prediction_iou
    assert later.classes == {"tags": (0, 1), "truth": (0,), "mask": (0,), "prediction": (0,)}
    masks, predictions = measured.confusions["masks"], measured.confusions["predictions"]
    assert masks.matrix.sum() == predictions.matrix.sum() == 6 * 48 * 64
    assert masks.miou() == 1 and not measured.problems


def test_a_corrected_image_has_no_doubt_nor_the_class_that_was_taken_from_it(build):
    inputs = build(IDS, ["a", "b", "c"], truth=False, trained=False, computed=("tags",))
    entries = inputs.results["tags"].entries
    entries["0"]["found"], entries["1"]["found"] = [0], [0, 1, 2]
    right, corrected, other = measure_images(inputs).images[:3]
    assert right.doubt is corrected.doubt is None and other.doubt is not None
    assert right.tags == right.found and corrected.classes == {"tags": corrected.tags}


def test_given_tags_have_no_threshold_and_later_rounds_their_own():
    assert tags_of(["dataset=demo", "tags=ground_truth"]).threshold is None
    for keep, threshold in ((True, None), (False, 0.6)):
        tags = SegmenterTags(
            split="val",
            options=SelfTrainingSettings(tag_threshold=0.6, keep_tags=keep),
            test=TestSettings(),
            background=True,
            vocabulary=None,
            reader=None,
            device="cpu",
        )
        assert (tags.threshold and tags.threshold(np.zeros(3))) == threshold


def tags_of(overrides: list[str]) -> Tags:
    """Returns the stage of tags of a configuration."""
    config = read_config(compose(overrides))
    return Builder(config, build_vocabulary(config.dataset)).tags("val", {})


def test_tags_are_right_wrong_missed_or_not_judged():
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.15, 0.05], np.float32)
    known = {"tags": (0, 1), "scores": scores, "threshold": 0.5}
    rows = tag_rows(figures(0, truth=(0, 2), **known))
    assert [(row.index, row.verdict) for row in rows] == [
        (0, "right"), (1, "wrong"), (2, "missed"), (4, "not a tag"), (3, "not a tag"),
        (5, "not a tag"),
    ]  # fmt: skip
    assert {row.verdict for row in tag_rows(figures(0, **known))} == {"tag", "not a tag"}
    assert tag_rows(figures(0)) == []


def test_of_many_images_each_kind_has_its_share():
    images = [figures(k, mask_iou=k / 100, disagreement=abs(50 - k) / 100) for k in range(100)]
    selection = choose_images(images, 20)
    chosen = {
        reason: [int(i) for i, r in selection.reasons.items() if r == reason]
        for reason in (WORST, BEST, DISAGREEING, SAMPLE)
    }
    assert len(selection.images) == len(selection.reasons) == 20
    assert chosen[WORST] == [0, 1, 2, 3, 4] and chosen[BEST] == [99, 98, 97, 96, 95]
    assert set(chosen[DISAGREEING]) == {5, 6, 94, 93, 7}
    gaps = [b - a for a, b in itertools.pairwise(chosen[SAMPLE])]
    assert len(chosen[SAMPLE]) == 5 and min(gaps) >= 20, "from one end to the other"
    order = [image.sample.id for image in selection.images]
    assert order == sorted(order)
    assert selection.description.startswith("20 of 100 images are shown: 5 with the lowest IoU, ")


def test_without_figures_the_sample_is_even_and_few_images_are_all_shown():
    images = [figures(k) for k in range(50)]
    selection = choose_images(images, 5)
    assert [image.sample.id for image in selection.images] == ["000", "012", "024", "037", "049"]
    assert set(selection.reasons.values()) == {SAMPLE}
    for most in (50, None):
        selection = choose_images(images, most)
        assert len(selection.images) == 50 and not selection.reasons


def test_the_most_doubtful_images_have_a_share():
    images = [figures(k, doubt=float(k % 10)) for k in range(50)]
    images.append(figures(50))  # corrected, hence beyond doubt
    selection = choose_images(images, 10)
    doubtful = [i for i, reason in selection.reasons.items() if reason == DOUBTFUL]
    assert {int(i) % 10 for i in doubtful} == {9} and len(doubtful) == 5
    assert "5 whose tags are the most doubtful and 5 at even" in selection.description


def test_scores_near_the_threshold_are_doubtful():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.random(7).astype(np.float32)
        threshold = float(rng.uniform(scores.min(), scores.max()))
        expected = 0.0
        for score in scores.tolist():
            end = float(scores.max()) if score > threshold else float(scores.min())
            expected += (1 - (score - threshold) / (end - threshold)) ** 0.5
        assert tag_doubt(scores, threshold) == pytest.approx(expected, abs=1e-3)
    assert tag_doubt(np.array([0, 1], np.float32), 0.5) == 0
    assert tag_doubt(np.array([0, 0.5, 1], np.float32), 0.5) == 1
    assert tag_doubt(np.zeros(3, np.float32), 0.0) == 3, "equal scores decide nothing"
    # With a least score above all others, no class is a tag.
    assert tag_doubt(np.array([0, 0.2], np.float32), 0.4) == pytest.approx(0.5**0.5)


def test_masks_that_do_not_follow_from_the_cams_are_doubtful():
    maps = np.zeros((2, 4, 4), np.float16)
    maps[0, :, :2] = 1
    cams = Cams(np.array([0, 2]), maps, (4, 4))
    mask = np.zeros((4, 4), np.uint8)
    mask[:, :2] = 1
    assert label_doubt(cams, mask, 1.0) == 0
    mask[0, 0] = 3
    assert label_doubt(cams, mask, 1.0) == 1 / 16


def test_labels_have_their_colours_an_outline_and_a_hatching_where_they_are_ignored():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20], labels[25:40, 25:40] = 2, 255
    palette = [(0, 0, 0), (9, 9, 9), (200, 30, 0)]
    layer = picture(painting.embed(painting.paint_labels(labels, palette)))
    assert layer[15, 15].tolist() == [200, 30, 0, 168]
    assert layer[2, 2, 3] == 0, "the background is clear"
    assert layer[9, 15].tolist() == [255] * 4, "the outline"
    ignored = layer[26:, 26:, 3]
    assert (ignored == 255).mean() == pytest.approx(1 / 6, abs=0.01) and (ignored == 0).any()


def test_differences_are_told_apart_by_colour_and_hatching():
    first = np.array([[0, 0, 1, 1, 1, 255, 1]], np.uint8)
    second = np.array([[0, 1, 0, 2, 1, 1, 255]], np.uint8)
    kinds = painting.compare_labels(first, second)
    expected = [0, painting.MISSED, painting.EXTRA, painting.CONFUSED, painting.SAME, 255, 255]
    assert kinds.tolist() == [expected]
    pictures = {}
    for kind in painting.DIFFERENCE_COLOURS:
        layer = picture(painting.encode_difference(np.full((24, 24), kind, np.uint8)))
        lines = (layer[..., :3] == 255).all(-1)
        assert (layer[~lines][:, :3] == painting.DIFFERENCE_COLOURS[kind]).all()
        pictures[kind] = lines
    for first, second in itertools.combinations(pictures.values(), 2):
        assert (first != second).any(), "hatchings differ"
    assert picture(painting.encode_difference(np.zeros((4, 4), np.uint8)))[..., 3].max() == 0


def test_maps_are_clear_where_they_are_cold():
    heat = np.zeros((60, 60), np.float32)
    heat[:30] = 1
    layer = picture(painting.encode_heat(heat))
    assert layer[50, 30, 3] == 0 and layer[10, 30, 3] > 200
    large = picture(painting.encode_heat(np.zeros((900, 600), np.float32)))
    assert large.shape[:2] == (200, 133)


def test_names_stand_inside_their_regions():
    labels = np.zeros((300, 400), np.uint8)
    labels[200:280, 20:380], labels[10:12, 10:12], labels[50:100, :] = 3, 4, 255
    ((label, left, top),) = painting.find_places(labels, ["a", "b", "c"])
    assert label == 3, "neither what is tiny nor what is ignored"
    assert labels[int(3 * top), int(4 * left)] == 3


def test_names_do_not_cross():
    labels = np.zeros((300, 400), np.uint8)
    labels[:, 100:190], labels[:, 190:280] = 1, 2
    first, second = painting.find_places(labels, ["potted plant", "dining table"])
    assert abs(first[2] - second[2]) > 10, "a line apart, since the names are wider than a region"
    labels[50:, 100:190], labels[50:, 190:280] = 0, 0
    assert len(painting.find_places(labels, ["p" * 40, "d" * 40])) <= 2
    labels[30:] = 0
    assert len(painting.find_places(labels, ["p" * 40, "d" * 40])) == 1, "the legend has the other"


def test_the_matrix_names_its_labels_and_escapes_them():
    confusion = Confusion(4)
    confusion.matrix[:3, :3] = [[90, 10, 0], [5, 5, 0], [0, 1, 99]]
    svg = draw_confusion(confusion, ["background", "<script>", "$\\frac{", "unused"], "masks")
    assert svg.startswith("<svg") and "<script" not in svg and "&lt;script&gt;" in svg
    assert "$\\frac{" in svg and "unused" not in svg
    assert "currentColor" in svg and "<metadata" not in svg
    worst = find_confused(confusion)
    assert [found[:3] for found in worst] == [(0, 1, 10), (1, 0, 5), (2, 1, 1)]
    assert worst[1][3] == 0.5


def test_durations_are_readable():
    for seconds, words in ((0.04, "0.0 s"), (61, "1 min 01 s"), (7500, "2 h 05 min"), (None, "–")):
        assert in_words(seconds) == words
