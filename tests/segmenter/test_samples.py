"""What a training reads: images and masks at the size that predictions are made at."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError
from pipeline.segmenter.data import TrainingPair
from pipeline.segmenter.limits import Limits
from pipeline.segmenter.mmseg import import_mmseg
from pipeline.segmenter.samples import Labelled, PseudoLabelled, build_loader
from tests.segmenter.tiny_training import tiny_settings, write_labelled


def pair_of(folder: Path, image: np.ndarray, labels: np.ndarray) -> TrainingPair:
    """Returns an image with its mask, as files."""
    Image.fromarray(image).save(folder / "i.png")
    Image.fromarray(labels).save(folder / "m.png")
    return TrainingPair("the/one", folder / "i.png", folder / "m.png")


@pytest.mark.parametrize(
    ("longest_side", "patches"), [(40, None), (None, [4, 50]), (40, [4, 5000])]
)
def test_large_images_and_their_masks_are_shrunk_alike(longest_side, patches, tmp_path):
    image = np.zeros((200, 400, 3), np.uint8)
    image[:, 200:] = 255
    labels = np.zeros((200, 400), np.uint8)
    labels[:, 200:] = 1
    pair = pair_of(tmp_path, image, labels)
    settings = tiny_settings(crop_size=64, scale_range=[1.0, 1.0], photometric_distortion=False)
    read = ImageReader(longest_side=longest_side)
    limits = Limits(longest_side, patches)
    sample = PseudoLabelled([pair], settings, 0, {}, read, limits)[0]
    assert sample["inputs"].shape == (3, 20, 40)
    truth = sample["data_samples"].gt_sem_seg.data[0].numpy()
    bright = sample["inputs"][0].numpy() > 127
    assert truth.shape == (20, 40)
    assert (truth.astype(bool) == bright).mean() > 0.97


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (2, 1)])
def test_images_of_a_few_pixels_can_be_trained_on(size, tmp_path):
    pair = pair_of(tmp_path, np.zeros((*size, 3), np.uint8), np.ones(size, np.uint8))
    settings = tiny_settings(scale_range=[0.5, 1.5], photometric_distortion=False)
    dataset = PseudoLabelled([pair], settings, seed=0, metainfo={})
    for position in range(8):
        sample = dataset[position]
        assert min(sample["inputs"].shape) >= 1
        labels = set(np.unique(sample["data_samples"].gt_sem_seg.data))
        assert 1 in labels and labels <= {1, 255}


def test_decoded_images_are_kept_unchanged_while_there_is_room(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    pair = pair_of(tmp_path, image, np.ones((40, 50), np.uint8))
    settings = tiny_settings(scale_range=[0.5, 1.5])

    def draw() -> list[np.ndarray]:
        dataset = PseudoLabelled([pair], settings, seed=0, metainfo={})
        return [dataset[position]["inputs"].numpy() for position in (0, 1, 2, 1)]

    kept = draw()
    np.testing.assert_array_equal(kept[1], kept[3])
    monkeypatch.setattr("pipeline.segmenter.samples._MAX_CACHED_BYTES", 0)
    for with_room, without in zip(kept, draw()):
        np.testing.assert_array_equal(with_room, without)


@pytest.mark.parametrize("size", [(60, 70), (20, 90), (32, 32)])
def test_crops_are_those_of_mmsegmentation(size, tmp_path, monkeypatch):
    import_mmseg()
    from mmseg.datasets.transforms import RandomCrop

    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 3, : size[1] // 4] = 1  # most crops are background
    labels[-6:] = 255
    pair = pair_of(tmp_path, rng.integers(0, 255, (*size, 3), np.uint8), labels)
    settings = tiny_settings(scale_range=[0.75, 1.5])
    ours, theirs = (PseudoLabelled([pair], settings, 0, {}) for _ in range(2))
    (place,) = [k for k, t in enumerate(theirs._transforms) if isinstance(t, RandomCrop)]
    given = {k: getattr(theirs._transforms[place], k) for k in ("crop_size", "cat_max_ratio")}
    theirs._transforms[place] = RandomCrop(**given)
    tried = []
    choose = RandomCrop.crop
    monkeypatch.setattr(
        RandomCrop, "crop", lambda self, img, box: tried.append(box) or choose(self, img, box)
    )
    for position in range(40):
        for name in ("inputs", "data_samples"):
            one, other = (each[position][name] for each in (ours, theirs))
            if name == "data_samples":
                one, other = one.gt_sem_seg.data, other.gt_sem_seg.data
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(tried) > 4 * 40 * 2 or size == (32, 32), "some crops are drawn again"


class CachedBytes(PseudoLabelled):
    """Tells how much the process that loads an image has cached."""

    def __getitem__(self, position: int) -> int:
        super().__getitem__(position)
        return self._cached_bytes


def test_processes_that_load_images_share_one_limit(pairs, monkeypatch):
    """They inherit the samples, also where the default is to start processes anew."""
    anew = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", anew)
    image = 48 * 40 * (3 + 1)
    monkeypatch.setattr("pipeline.segmenter.samples._MAX_CACHED_BYTES", 4 * image)
    dataset = CachedBytes(pairs, tiny_settings(), seed=0, metainfo={})
    loaded = [max(batch) for batch in build_loader(dataset, range(20), 1, workers=2)]
    assert max(loaded) == 2 * image
    assert max(dataset[position] for position in range(10)) == 4 * image
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # of torchrun
    dataset = CachedBytes(pairs, tiny_settings(), seed=0, metainfo={})
    assert max(dataset[position] for position in range(10)) == image


ABOVE = "60×100 pixels are more than dataset.max_pixels=2000"


def test_the_limit_on_pixels_holds_for_masks_of_a_training(tmp_path):
    pair = pair_of(tmp_path, np.zeros((40, 48, 3), np.uint8), np.zeros((100, 60), np.uint8))
    dataset = PseudoLabelled([pair], tiny_settings(), 0, {}, ImageReader(max_pixels=2000))
    with pytest.raises(UserError, match=f"training image the/one or its mask.*{ABOVE}"):
        dataset[0]


@pytest.mark.parametrize(
    ("file", "reason"),
    [("0.png", ABOVE), ("0_mask.png", "the mask is not of the image's size")],
)
def test_a_validation_image_that_cannot_be_used_is_named(tmp_path, file, reason):
    labelled = write_labelled(tmp_path, 1)
    assert Labelled(labelled, ImageReader(max_pixels=2000), {}, Limits())[0]
    Image.fromarray(np.zeros((100, 60), np.uint8)).save(tmp_path / file)
    with pytest.raises(UserError, match=f"validation image s/0 or its mask .*{reason}.*: repair"):
        Labelled(labelled, ImageReader(max_pixels=2000), {}, Limits())[0]
