"""Masks as files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.ground_truth import MaskFile
from pipeline.errors import UserError
from tests.datasets.miniatures import striped, write_labels


def test_a_palette_of_few_colours_keeps_its_labels(tmp_path):
    labels = striped(1, [0, 1, 2])
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "mask.png", bits=2)
    np.testing.assert_array_equal(MaskFile(tmp_path / "mask.png").read(), labels)


def test_labels_above_the_classes_are_refused_but_not_what_is_ignored(tmp_path):
    write_labels(tmp_path / "mask.png", striped(0, [0, 3, 255]))
    assert MaskFile(tmp_path / "mask.png", 3).read().max() == 255
    with pytest.raises(UserError, match="mask.png holds label 3, .* 2 names"):
        MaskFile(tmp_path / "mask.png", 2).read()
    write_labels(tmp_path / "mask.png", striped(0, [255]))
    assert (MaskFile(tmp_path / "mask.png", 2).read() == 255).all()
