"""From CAMs to labels, and the CRF."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.cams.cams import Cams
from pipeline.datasets.vocabulary import voc_palette
from pipeline.errors import UserError
from pipeline.files.images import encode_png
from pipeline.masks import crf
from pipeline.masks.crf import CrfOptions, crf_image, dense_crf
from pipeline.masks.labels import (
    ignore_unsure,
    resized_argmax,
    stack_background,
    to_labels,
)
from pipeline.masks.pseudo_mask import PseudoMask, pseudo_mask
from pipeline.masks.settings import PseudoMaskOptions

CLEAN = CrfOptions()


def test_background_is_what_no_cam_claims():
    cams = np.array([[[0.2, 0.9]], [[0.5, 0.1]]])
    stacked = stack_background(cams, beta=2)
    np.testing.assert_allclose(stacked[0], [[0.25, 0.01]])
    np.testing.assert_array_equal(stacked[1:], cams)
    assert stack_background(np.zeros((0, 2, 2)), beta=2)[0].min() == 1
    assert stack_background(cams, beta=None) is cams
    beyond = np.full((1, 1, 1), np.nextafter(np.float32(1), np.float32(2)))
    assert stack_background(beyond, beta=0.5)[0] == 0, "a resize may round beyond 1"


def test_labels_are_class_indices_plus_one():
    channels = np.array([[0, 1], [2, 0]])
    np.testing.assert_array_equal(to_labels(channels, np.array([4, 19])), [[0, 5], [20, 0]])


def test_resized_argmax_is_argmax_of_the_resized():
    import torch
    import torch.nn.functional as F

    scores = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    resized = F.interpolate(torch.from_numpy(scores)[None], (17, 13), mode="bilinear")[0].numpy()
    channel, best = resized_argmax(scores, 17, 13)
    np.testing.assert_array_equal(channel, resized.argmax(0))
    np.testing.assert_allclose(best, resized.max(0))
    assert not resized_argmax(np.ones((3, 2, 2), np.float32), 2, 2)[0].any(), "the first of equals"


def test_unsure_pixels_are_ignored():
    labels, probability = np.array([[1, 2, 3]], np.uint8), np.array([[0.94, 0.95, 0.96]])
    np.testing.assert_array_equal(ignore_unsure(labels, probability, 0.95), [[255, 2, 3]])


def naive_crf(image: np.ndarray, scores: np.ndarray, options: CrfOptions) -> np.ndarray:
    """Mean field over all pairs of pixels, without the lattice that approximates it."""
    count, height, width = scores.shape
    position = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(features: np.ndarray) -> np.ndarray:
        distance = ((features[:, None] - features[None]) ** 2).sum(-1)
        weights = np.exp(-0.5 * distance)
        norm = 1 / np.sqrt(weights.sum(1))  # pydensecrf normalises symmetrically
        return weights * norm[:, None] * norm[None]

    smooth = kernel(position / options.gaussian_sxy)
    appearance = kernel(
        np.concatenate([position / options.bilateral_sxy, colour / options.bilateral_srgb], 1)
    )
    unary = -np.log(np.clip(scores, 1e-5, 1)).reshape(count, -1)
    probability = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(options.iterations):
        energy = -unary.copy()
        energy += options.gaussian_compat * (probability @ smooth.T)
        energy += options.bilateral_compat * (probability @ appearance.T)
        energy -= energy.max(0)
        probability = np.exp(energy) / np.exp(energy).sum(0)
    return probability.reshape(scores.shape)


def test_crf_labels_are_those_of_the_exact_mean_field():
    rng = np.random.default_rng(1)
    image = np.full((16, 20, 3), 60, np.uint8)
    image[4:12, 5:15] = (180, 60, 40)
    truth = (image[..., 0] > 100).astype(float)
    noisy = np.clip(0.5 + 0.25 * (truth - 0.5) + 0.12 * rng.normal(size=truth.shape), 0.02, 0.98)
    scores = np.stack([1 - noisy, noisy])
    probabilities = dense_crf(image, scores, CLEAN)
    expected = naive_crf(image, scores, CLEAN)
    assert (probabilities.argmax(0) == expected.argmax(0)).mean() > 0.98
    assert (scores.argmax(0) != truth).mean() > 0.05, "the input has to be noisy in this test"
    assert (probabilities.argmax(0) == truth).mean() > 0.98
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_crf_takes_as_many_steps_as_it_is_told(iterations):
    from pydensecrf.densecrf import DenseCRF2D

    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (9, 12, 3), np.uint8)
    scores = rng.uniform(0.1, 0.9, (3, 9, 12)).astype(np.float32)
    crf = DenseCRF2D(12, 9, 3)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores).reshape(3, -1)))
    crf.addPairwiseGaussian(sxy=2, compat=1.5)
    crf.addPairwiseBilateral(sxy=5, srgb=40, rgbim=image, compat=2.5)
    probability, first, second = crf.startInference()
    for _ in range(iterations):
        crf.stepInference(probability, first, second)

    options = CrfOptions(
        iterations=iterations,
        gaussian_sxy=2,
        gaussian_compat=1.5,
        bilateral_sxy=5,
        bilateral_srgb=40,
        bilateral_compat=2.5,
    )
    found = dense_crf(image, scores, options)
    np.testing.assert_array_equal(found, np.array(probability).reshape(3, 9, 12))
    more = dense_crf(image, scores, replace(options, iterations=iterations + 1))
    assert abs(more - found).max() > 1e-3


@pytest.mark.parametrize(("least", "kept"), [(0, [0, 1, 2]), (0.15, [0, 2]), (0.99, [0, 2])])
def test_labels_that_no_pixel_is_likely_to_have_are_left_out(least, kept):
    image = np.random.default_rng(3).integers(0, 256, (6, 7, 3), np.uint8)
    scores = np.stack([np.full((6, 7), each) for each in (0.2, 0.1, 0.14)])
    scores[0, :, 4:] = 0.01  # where label 2 is the best, though unlikely
    found = dense_crf(image, scores, replace(CLEAN, min_probability=least))
    np.testing.assert_array_equal(found[kept], dense_crf(image, scores[kept], CLEAN))
    assert not np.delete(found, kept, 0).any()


def test_scores_are_clipped_before_their_logarithm():
    scores, image = np.array([[[0, 0.25]], [[1.5, 0.75]]]), np.zeros((1, 2, 3), np.uint8)
    clipped = np.array([[[1e-5, 0.25]], [[1, 0.75]]])
    found = dense_crf(image, scores, CrfOptions(iterations=0))
    np.testing.assert_allclose(found, clipped / clipped.sum(0), rtol=1e-4)


def test_the_crf_takes_an_image_that_cannot_be_written():
    image = np.asfortranarray(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8))
    image.flags.writeable = False
    scores = np.full((2, 6, 7), 0.5)
    expected = dense_crf(np.array(image, order="C"), scores, CLEAN)
    np.testing.assert_array_equal(dense_crf(image, scores, CLEAN), expected)


@pytest.mark.parametrize("fp16", [True, False])
def test_the_quirk_takes_background_and_logarithm_in_float16(fp16):
    kind = np.float16 if fp16 else np.float32
    values = np.random.default_rng(4).uniform(0, 1, (1, 3, 4)).astype(np.float16)
    image, cams = np.zeros((3, 4, 3), np.uint8), Cams(np.array([2]), values, (3, 4))
    _, probability = pseudo_mask(image, cams, CrfOptions(iterations=0), 0.7, fp16=fp16)
    scores = np.concatenate([(1 - values.astype(kind)) ** kind(0.7), values.astype(kind)])
    logits = np.log(scores.clip(kind(1e-5), 1)).astype(np.float64)
    expected = (np.exp(logits) / np.exp(logits).sum(0)).max(0)
    np.testing.assert_allclose(probability, expected, rtol=2e-6)


def test_quirks_are_for_the_crf_alone_and_off_by_default():
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (6, 8, 3), np.uint8)
    halves = np.array([[[0.5, 0.5 + 2**-11]]], np.float16)  # neighbours in float16
    cams, crf = Cams(np.array([4]), halves, image.shape[:2]), CrfOptions(bilateral_srgb=60)
    _, plain = pseudo_mask(image, cams, crf)
    _, clean = pseudo_mask(image, cams, crf, bgr=False, fp16=False)
    np.testing.assert_array_equal(plain, clean)
    _, released = pseudo_mask(image, cams, crf, bgr=True)
    _, expected = pseudo_mask(crf_image(image, bgr=True), cams, crf)
    np.testing.assert_array_equal(released, expected)
    assert abs(released - plain).max() > 1e-4
    labels, _ = pseudo_mask(image, cams, None, bgr=True, fp16=True)
    assert labels.tolist() == [[0, 0, 5, 5, 5, 5, 5, 5]] * 6


def test_the_released_image_is_bgr_minus_a_mean_wrapped_to_bytes():
    image = np.array([[[200, 100, 50]]], np.uint8)
    # 50 − 104.008 = −54.008 → −54 → 202; 100 − 116.669 → −16 → 240; 200 − 122.675 → 77
    np.testing.assert_array_equal(crf_image(image, bgr=True), [[[202, 240, 77]]])
    np.testing.assert_array_equal(crf_image(image, bgr=False), image)


def test_an_image_without_tags_is_all_background_at_its_full_size():
    cams = Cams(np.zeros(0, np.int64), np.zeros((0, 2, 3), np.float16), (40, 60))
    labels, probability = pseudo_mask(np.zeros((20, 30, 3), np.uint8), cams, CLEAN)
    assert labels.shape == probability.shape == (40, 60)
    assert not labels.any() and (probability == 1).all()


def test_a_shrunk_image_gives_a_mask_of_full_size():
    cams = np.zeros((1, 4, 4), np.float16)
    cams[0, 1:3, 1:3] = 1
    image = np.full((32, 32, 3), 20, np.uint8)
    image[8:24, 8:24] = 220
    labels, probability = pseudo_mask(image, Cams(np.array([6]), cams, (96, 96)), CLEAN)
    assert labels.shape == probability.shape == (96, 96)
    assert labels.dtype == np.uint8 and probability.dtype == np.float32
    assert set(np.unique(labels)) == {0, 7}
    assert (labels[30:66, 30:66] == 7).all()
    # Two channels share the probability, so that the better of them has at least a half.
    assert 0.5 <= probability.min() < 0.95 < probability.max() <= 1.0001
    assert set(np.unique(ignore_unsure(labels, probability, 0.95))) == {0, 7, 255}


@pytest.mark.parametrize("classes", [2, 10, 254])
def test_palette_pngs_keep_every_label_and_255(classes: int):
    labels = np.array([[0, 1, classes, 255]], np.uint8)
    data = encode_png(labels, voc_palette(classes + 1))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert image.getpalette()[3:6] == [128, 0, 0]
        ignored = voc_palette(256)[255]
        assert ignored == (224, 224, 192) == image.convert("RGB").getpixel((3, 0))


def test_without_a_background_every_pixel_is_a_tag():
    values = np.array([[[0.1, 0.2], [0.0, 0.1]], [[0.05, 0.3], [0.2, 0.0]]], np.float16)
    cams = Cams(np.array([4, 7]), values, (2, 2))
    image = np.zeros((2, 2, 3), np.uint8)
    labels, probability = pseudo_mask(image, cams, None, beta=None)
    assert labels.tolist() == [[5, 8], [8, 5]] and probability is None
    alone = Cams(np.array([4]), values[:1], (2, 2))
    labels, probability = pseudo_mask(image, alone, CLEAN, beta=None, bgr=True, fp16=True)
    assert (labels == 5).all() and (probability == 1).all()


def test_a_crf_that_is_not_installed_is_one_sentence(monkeypatch):
    """Python 3.13 and later need two commands for it; masks without a CRF do not."""
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.setattr(crf, "_kernel", crf._kernel.__wrapped__)  # as in another process
    resources = SimpleNamespace(quirks=None)
    with pytest.raises(UserError, match="not installed: run pip install 'cy"):
        PseudoMask(PseudoMaskOptions(), resources)
    PseudoMask(PseudoMaskOptions(crf=None), resources)
    with pytest.raises(UserError, match="--no-build-isolation 'pydensecrf2"):
        dense_crf(np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 4)), CLEAN)
