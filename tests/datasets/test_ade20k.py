"""ADE20K: 150 classes, and 0 for other pixels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from tests.datasets.miniatures import ADE20K_VALUES, copy_of, load, striped


def test_zero_is_ignored_and_the_rest_is_counted_from_one(ade20k):
    dataset = load("ade20k", ade20k)
    assert len(dataset.vocabulary.classes) == 150
    assert {split: len(dataset.splits[split]) for split in dataset.splits} == {"train": 3, "val": 3}
    for index, (sample, held) in enumerate(zip(dataset.splits["val"], ADE20K_VALUES)):
        stored = striped(index, held)
        np.testing.assert_array_equal(sample.mask.read(), np.where(stored == 0, 255, stored))
        assert sample.ground_truth_labels == tuple(v - 1 for v in held if v)
        assert sample.image.is_file() and sample.image.parent.name == "validation"
    named = [dataset.vocabulary.classes[k] for k in dataset.splits["val"][0].ground_truth_labels]
    assert named == ["wall", "sky", "person"]


def test_ade20k_may_lie_below_the_root_or_be_it(ade20k):
    for root in (ade20k, ade20k / "ADEChallengeData2016"):
        samples = load("ade20k", root).splits["train"]
        assert [s.id for s in samples] == [f"ADE_train_{k:08d}" for k in (1, 2, 3)]


def test_ade20k_without_its_images_says_where_they_belong(ade20k, tmp_path):
    root = copy_of(ade20k / "ADEChallengeData2016", tmp_path)
    (root / "images" / "training").rename(root / "images" / "elsewhere")
    dataset = load("ade20k", root)
    assert len(dataset.splits["val"]) == 3
    with pytest.raises(UserError, match=r"images holds no .*\(ADE20K\)"):
        _ = dataset.splits["train"]
