"""Losses that are weighted pixel by pixel, against a loop over pixels, and in a training."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from PIL import Image
from torch import nn

from pipeline.errors import UserError
from pipeline.segmenter.losses import choose_loss, weight_pixels
from pipeline.segmenter.mmseg import build_model
from pipeline.segmenter.samples import PseudoLabelled
from tests.segmenter.naive_losses import (
    FAST_SCNN,
    HeadsAlone,
    as_samples,
    model_config,
    naive_cross_entropy,
)
from tests.segmenter.tiny_training import tiny_settings

OHEM = "deeplabv3plus/deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024.py"


def padded_batch(model: nn.Module) -> tuple[list, np.ndarray, np.ndarray]:
    """Returns two samples of different sizes, padded, and their labels and weights as arrays."""
    rng = np.random.default_rng(5)
    inputs, samples = [], []
    labels, weights = np.full((2, 32, 32), 255), np.zeros((2, 32, 32))
    for index, (height, width) in enumerate([(29, 32), (32, 20)]):
        own = rng.integers(0, 3, (height, width))
        own[rng.random(own.shape) < 0.3] = 255
        own[0], own[:, -1] = 255, 255  # at the image's border, where the padding begins
        weight = rng.random(own.shape).astype(np.float32)
        labels[index, :height, :width], weights[index, :height, :width] = own, weight
        inputs.append(torch.zeros(3, height, width, dtype=torch.uint8))
        samples += as_samples(
            torch.from_numpy(own[None, None]), torch.from_numpy(weight[None, None])
        )
    batch = {"inputs": inputs, "data_samples": samples}
    return model.data_preprocessor(batch, training=True)["data_samples"], labels, weights


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced"])
@pytest.mark.parametrize("weighted", [False, True])
def test_head_s_loss_and_gradient_are_those_of_a_loop(loss, weighted):
    """Neither 255 in an image nor the padding of smaller ones counts, in sum or in number."""
    config = model_config()
    choose_loss(config, loss)
    model = build_model(config)
    if weighted:
        weight_pixels(model)
    samples, labels, weights = padded_batch(model)
    assert samples[0].gt_sem_seg.shape == samples[1].gt_sem_seg.shape == (32, 32)
    torch.manual_seed(1)
    scores = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    value = model.decode_head.loss_by_feat(scores, samples)["loss_ce"]
    (gradient,) = torch.autograd.grad(value, scores)
    naive, expected = naive_cross_entropy(
        scores.detach().numpy(),
        labels,
        weights if weighted else None,
        balanced=loss == "balanced",
    )
    # mmsegmentation adds the smallest float32 to the number of pixels.
    assert value.item() == pytest.approx(naive, rel=1e-7)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-12)
    assert (gradient.numpy().transpose(0, 2, 3, 1)[labels == 255] == 0).all()


@pytest.mark.parametrize("name", [FAST_SCNN, "danet/danet_r50-d8_4xb4-20k_voc12aug-512x512.py"])
def test_halving_the_weights_halves_the_losses(name):
    """Of a sigmoid loss, and of a head with several outputs."""
    model = HeadsAlone(model_config(name))
    weight_pixels(model)
    weight_pixels(model)  # a second time changes nothing
    head = model.decode_head
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 16, 16)
    scores = (scores, scores.neg(), scores.roll(1)) if "danet" in name else scores
    labels = torch.randint(0, 3, (2, 1, 16, 16))
    weights = torch.rand(2, 1, 16, 16)

    def total(factor: float) -> torch.Tensor:
        losses = head.loss_by_feat(scores, as_samples(labels, factor * weights))
        return sum(value for key, value in losses.items() if "loss" in key)

    assert torch.allclose(total(0.5), 0.5 * total(1.0)) and total(1.0) > 0
    assert total(0.0) == 0


def test_weights_follow_a_head_into_a_copy():
    model = HeadsAlone(model_config())
    weight_pixels(model)
    other = copy.deepcopy(model)
    assert other.decode_head.loss_by_feat.__self__ is other.decode_head
    assert other.decode_head.sampler is not model.decode_head.sampler


@pytest.mark.parametrize(
    "name, reason",
    [
        (OHEM, "DepthwiseSeparableASPPHead, which chooses pixels by OHEMPixelSampler"),
        ("point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py", "PointHead, which"),
        ("ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py", "DDRHead, which"),
    ],
)
def test_head_that_takes_no_weights_is_named(name, reason):
    model = HeadsAlone(model_config(name))
    with pytest.raises(UserError, match=reason) as caught:
        weight_pixels(model)
    assert "\n" not in str(caught.value)


def test_loss_that_takes_no_weights_is_named():
    config = model_config()
    config.decode_head.loss_decode = {"type": "LovaszLoss", "reduction": "none"}
    with pytest.raises(UserError, match="learns by LovaszLoss"):
        weight_pixels(HeadsAlone(config))


def test_auxiliary_heads_are_weighted_too():
    model = build_model(model_config("fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"))
    weight_pixels(model)
    assert type(model.decode_head.sampler) is type(model.auxiliary_head.sampler)
    assert type(model.decode_head.sampler).__name__ == "SampleWeights"


# A short training


def with_probability(pairs: Sequence, folder: Path, value: int) -> list:
    """Returns the pairs with probabilities that are the same everywhere."""
    path = folder / f"{value}.png"
    Image.fromarray(np.full((40, 48), value, np.uint8)).save(path)
    return [dataclasses.replace(pair, probability=path) for pair in pairs]


def train_shortly(pairs: Sequence, loss: str, *, weighted: bool) -> list[float]:
    """Trains for four iterations and returns the loss of each."""
    settings = tiny_settings()
    config = model_config()
    choose_loss(config, loss)
    torch.manual_seed(0)
    model = build_model(config)
    if weighted:
        weight_pixels(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    dataset = PseudoLabelled(pairs, settings, seed=3, metainfo={})
    losses = []
    for start in range(0, 8, 2):
        torch.manual_seed(start)  # for dropout
        batch = pseudo_collate([dataset[start], dataset[start + 1]])
        losses.append(model.train_step(batch, wrapper)["loss"].item())
    return losses


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced"])
def test_training_with_weights_of_one_is_training_without(pairs, tmp_path, loss):
    plain = train_shortly(pairs, loss, weighted=False)
    assert all(math.isfinite(value) and value > 0 for value in plain)
    assert train_shortly(with_probability(pairs, tmp_path, 255), loss, weighted=True) == plain
    assert train_shortly(with_probability(pairs, tmp_path, 0), loss, weighted=True) == [0.0] * 4
    # The first batch meets the same network, so that its loss is in proportion.
    some = train_shortly(with_probability(pairs, tmp_path, 51), loss, weighted=True)
    assert some[0] == pytest.approx(0.2 * plain[0], rel=1e-5)
