"""What a training reads: images and masks at the size that predictions are made at."""

from __future__ import annotations

import numpy as np
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
