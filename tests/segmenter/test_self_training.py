from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.segmenter.self_training import best_of, chosen_probabilities
from pipeline.segmenter.settings import SelfTrainingSettings

SETTINGS = SelfTrainingSettings(tag_region=0.1, tag_threshold=0.5, confidence=0.5, keep_tags=False)


def probabilities_of(seed=0, classes=3, size=(10, 12)):
    raw = np.random.default_rng(seed).random((classes + 1, *size)).astype(np.float32)
    return raw / raw.sum(0)


def relabel(probabilities, size, settings, tags=None, background=True):
    scores, cams = chosen_probabilities(probabilities, size, settings, tags, background)
    labels, probability = best_of(None, cams)
    tags = tuple(cams.classes[cams.classes >= 0].tolist())
    return SimpleNamespace(scores=scores, tags=tags, labels=labels, probability=probability)


def test_scores_are_means_of_the_surest_pixels():
    probabilities = probabilities_of()
    expected = [np.sort(p.ravel())[-12:].mean() for p in probabilities[1:]]
    assert relabel(probabilities, (10, 12), SETTINGS).scores == pytest.approx(expected)
    one_pixel = replace(SETTINGS, tag_region=0.0)
    surest = relabel(probabilities, (10, 12), one_pixel).scores
    assert surest == pytest.approx(probabilities[1:].max((1, 2)))


def test_labels_are_the_best_of_background_and_tags():
    probabilities = np.full((4, 10, 12), 0.1, np.float32)
    probabilities[0] = 0.7
    probabilities[2, :5], probabilities[0, :5] = 0.7, 0.1  # class 1 in half of the image
    probabilities[3, 9, 11], probabilities[0, 9, 11] = 0.7, 0.1  # class 2 in one pixel
    relabelled = relabel(probabilities, (10, 12), SETTINGS)
    assert relabelled.tags == (1,)
    expected = np.zeros((10, 12), np.uint8)
    expected[:5] = 2
    expected[9, 11] = relabelled.labels[9, 11]  # neither of the two stands out in it
    assert np.array_equal(relabelled.labels, expected)
    assert relabelled.probability[0, 0] == pytest.approx(0.7 / 0.8)
    assert relabelled.probability[9, 11] == pytest.approx(0.5)


def test_given_tags_win_over_what_is_seen():
    probabilities = probabilities_of()
    relabelled = relabel(probabilities, (20, 24), SETTINGS, tags=(0, 2))
    assert relabelled.tags == (0, 2) and relabelled.labels.shape == (20, 24)
    assert set(np.unique(relabelled.labels)) <= {0, 1, 3}
    assert relabelled.probability.min() > 0 and relabelled.probability.max() <= 1


def test_only_tags_are_labels_where_there_is_no_background():
    probabilities = np.zeros((4, 4, 6), np.float32)
    probabilities[0] = 1  # which hides all tags in the lower half
    probabilities[1:, :2] = np.array([0.1, 0.6, 0.2], np.float32)[:, None, None]
    probabilities[0, :2] = 0.1
    found = relabel(probabilities, (4, 6), SETTINGS, tags=(0, 2), background=False)
    assert (found.labels[:2] == 3).all() and found.probability[0, 0] == pytest.approx(2 / 3)
    assert {*np.unique(found.labels)} <= {1, 3} and np.isfinite(found.probability).all()


def test_nothing_seen_is_background_everywhere():
    probabilities = np.full((3, 4, 4), 0.01, np.float32)
    probabilities[0] = 0.98
    relabelled = relabel(probabilities, (4, 4), SETTINGS)
    assert (
        relabelled.tags == ()
        and (relabelled.labels == 0).all()
        and (relabelled.probability == 1).all()
    )
