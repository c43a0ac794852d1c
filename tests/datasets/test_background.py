"""VOC20, whose ground truth has no background, and COCO-Object, where stuff is background."""

from __future__ import annotations

import numpy as np

from tests.datasets import miniature_coco, miniatures


def test_voc20_ignores_the_background_of_voc2012(tmp_path):
    root = miniatures.build_voc2012(tmp_path)
    whole = miniatures.load("voc2012", root).splits["val"]
    samples = miniatures.load("voc20", root).splits["val"]
    assert [s.id for s in samples] == [s.id for s in whole]
    for sample, other in zip(samples, whole):
        truth = other.mask.read()
        assert (truth == 0).any()
        expected = np.where(truth == 0, 255, truth)
        np.testing.assert_array_equal(sample.mask.read(), expected)
        assert sample.mask.contents not in (other.mask.contents, [])
        assert sample.ground_truth_labels == other.ground_truth_labels


def test_coco_object_has_the_things_of_coco_stuff(tmp_path):
    root = miniature_coco.build_cocostuff(tmp_path)
    stuff = miniatures.load("cocostuff", root)
    dataset = miniatures.load("coco_object", root)
    assert len(dataset.vocabulary.classes) == 80
    names = [name.replace(" ", "") for name in stuff.vocabulary.classes[:80]]
    assert [name.replace(" ", "") for name in dataset.vocabulary.classes] == names
    samples = dataset.splits["val"]
    assert len(samples) == len(stuff.splits["val"]) == 3
    for sample, other, values in zip(samples, stuff.splits["val"], miniature_coco.STUFF_VALUES):
        truth = other.mask.read()
        expected = np.where((truth > 80) | (truth == 255), 0, truth)
        np.testing.assert_array_equal(sample.mask.read(), expected)
        assert 0 in expected and (sample.mask.read() != 255).all(), values
