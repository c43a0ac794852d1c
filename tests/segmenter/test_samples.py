"""What a training reads: images and masks at the size that predictions are made at."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.segmenter.pairs import TrainingPair
from pipeline.segmenter.samples import PseudoLabelled


def test_large_images_and_their_masks_are_shrunk_alike(tmp_path):
    image = np.zeros((200, 400, 3), np.uint8)
    image[:, 200:] = 255
    labels = np.zeros((200, 400), np.uint8)
    labels[:, 200:] = 1
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray(labels).save(tmp_path / "m.png")
    pair = TrainingPair("i", tmp_path / "i.png", tmp_path / "m.png")
    settings = {"crop_size": 64, "scale_range": (1.0, 1.0), "longest_side": 40}
    sample = PseudoLabelled([pair], settings, seed=0, metainfo={})[0]
    assert sample["inputs"].shape == (3, 20, 40)
    truth = sample["data_samples"].gt_sem_seg.data[0].numpy()
    bright = sample["inputs"][0].numpy() > 127
    assert truth.shape == (20, 40)
    assert (truth.astype(bool) == bright).mean() > 0.97


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (2, 1)])
def test_images_of_a_few_pixels_can_be_trained_on(size, tmp_path):
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / "m.png")
    pair = TrainingPair("i", tmp_path / "i.png", tmp_path / "m.png")
    settings = {"crop_size": 32, "scale_range": (0.5, 1.5)}
    dataset = PseudoLabelled([pair], settings, seed=0, metainfo={})
    for position in range(8):
        sample = dataset[position]
        assert min(sample["inputs"].shape) >= 1
        labels = set(np.unique(sample["data_samples"].gt_sem_seg.data))
        assert 1 in labels and labels <= {1, 255}


def test_decoded_images_are_kept_unchanged_while_there_is_room(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray(np.ones((40, 50), np.uint8)).save(tmp_path / "m.png")
    pair = TrainingPair("i", tmp_path / "i.png", tmp_path / "m.png")
    settings = {"crop_size": 32, "scale_range": (0.5, 1.5), "photometric_distortion": True}

    def draw() -> list[np.ndarray]:
        dataset = PseudoLabelled([pair], settings, seed=0, metainfo={})
        return [dataset[position]["inputs"].numpy() for position in (0, 1, 2, 1)]

    kept = draw()
    np.testing.assert_array_equal(kept[1], kept[3])
    monkeypatch.setattr("pipeline.segmenter.samples._MOST_KEPT_BYTES", 0)
    for with_room, without in zip(kept, draw()):
        np.testing.assert_array_equal(with_room, without)
