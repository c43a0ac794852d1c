"""The balanced loss, against a loop over pixels in float64, and which loss heads are given."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from pipeline.configuration.settings import check
from pipeline.errors import UserError
from pipeline.segmenter.architecture import dictionaries
from pipeline.segmenter.losses import BalancedCrossEntropy, choose_loss
from pipeline.segmenter.mmseg import build_model
from tests.segmenter.naive_losses import (
    FAST_SCNN,
    HeadsAlone,
    as_samples,
    model_config,
    naive_cross_entropy,
)
from tests.segmenter.tiny_training import tiny_settings


def random_scores_and_labels(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns N×4×H×W float64 scores and labels of 0 to 3 and 255, a third of them 255."""
    torch.manual_seed(seed)
    labels = torch.randint(0, 4, shape)
    labels[torch.rand(shape) < 0.3] = 255
    scores = 3 * torch.randn(shape[0], 4, *shape[1:], dtype=torch.float64)
    return scores.requires_grad_(), labels


@pytest.mark.parametrize("weighted", [False, True])
def test_balanced_loss_and_gradient_are_those_of_a_loop(weighted):
    scores, labels = random_scores_and_labels(0, 2, 7, 9)
    labels[0, :2] = 0  # so that the two kinds differ in number
    weights = torch.rand(labels.shape, dtype=torch.float64) if weighted else None
    loss = BalancedCrossEntropy(loss_weight=0.4)(scores, labels, weight=weights)
    (gradient,) = torch.autograd.grad(loss, scores)
    naive, expected = naive_cross_entropy(
        scores.detach().numpy(),
        labels.numpy(),
        weights.numpy() if weighted else None,
        balanced=True,
    )
    assert loss.item() == pytest.approx(0.4 * naive, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), 0.4 * expected, rtol=1e-9, atol=1e-15)
    assert (gradient.numpy().transpose(0, 2, 3, 1)[labels.numpy() == 255] == 0).all()


def test_what_lies_under_255_does_not_change_the_balanced_loss():
    scores, labels = random_scores_and_labels(1, 2, 6, 6)
    ignored = (labels == 255)[:, None]
    changed = torch.where(ignored, 100 * torch.randn_like(scores), scores)
    loss = BalancedCrossEntropy()
    assert loss(changed, labels).item() == loss(scores, labels).item()
    # Nor does their number: as if the image had only the other pixels.
    kept = labels != 255
    alone = scores.permute(1, 0, 2, 3)[:, kept].T[None].mT[..., None]
    assert loss(alone, labels[kept][None, :, None]).item() == pytest.approx(
        loss(scores, labels).item()
    )


@pytest.mark.parametrize("present", ["background", "foreground"])
def test_a_batch_of_one_kind_has_the_mean_of_that_kind(present):
    scores, labels = random_scores_and_labels(2, 1, 8, 8)
    other = (labels != 0) if present == "background" else (labels == 0)
    labels[other] = 255
    loss = BalancedCrossEntropy()(scores, labels)
    plain = nn.functional.cross_entropy(scores, labels, ignore_index=255)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_batch_without_labels_has_loss_0_and_no_gradient():
    scores, labels = random_scores_and_labels(3, 1, 4, 4)
    loss = BalancedCrossEntropy()(scores, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0 and (gradient == 0).all()


def test_loss_of_every_pixel_on_request():
    scores, labels = random_scores_and_labels(4, 1, 4, 4)
    losses = BalancedCrossEntropy()(scores, labels, reduction_override="none")
    assert losses.shape == labels.shape and (losses[labels == 255] == 0).all()


# Choosing


def losses_in(model: ConfigDict) -> list[ConfigDict]:
    heads = [model.decode_head, model.get("auxiliary_head")]
    return [part for part in dictionaries(heads) if "Entropy" in str(part.get("type"))]


@pytest.mark.parametrize(
    "name",
    [
        None,
        "pspnet/pspnet_r101-d8_4xb4-20k_voc12aug-512x512.py",
        "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
        "icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py",
        "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ],
)
def test_balanced_takes_the_place_of_every_cross_entropy(name):
    model = model_config(name)
    before = [(part.get("loss_weight"), part.get("loss_name")) for part in losses_in(model)]
    choose_loss(model, "balanced")
    after = losses_in(model)
    assert len(after) == len(before) > 0
    assert {part.type for part in after} == {"BalancedCrossEntropy"}
    assert [(part.get("loss_weight"), part.get("loss_name")) for part in after] == before


def test_balanced_network_is_built_and_names_its_loss():
    model = model_config()
    model.decode_head.loss_decode = [
        {"type": "CrossEntropyLoss", "loss_weight": 0.5, "loss_name": "loss_one"},
        {"type": "mmseg.LovaszLoss", "reduction": "none", "loss_weight": 2.0},
    ]
    choose_loss(model, "balanced")
    losses = build_model(model).decode_head.loss_decode
    assert [type(loss).__name__ for loss in losses] == ["BalancedCrossEntropy", "LovaszLoss"]
    assert (losses[0].loss_weight, losses[0].loss_name) == (0.5, "loss_one")


def test_cross_entropy_stays_as_it_is():
    model = model_config("pspnet/pspnet_r101-d8_4xb4-20k_voc12aug-512x512.py")
    before = copy.deepcopy(model)
    choose_loss(model, "cross_entropy")
    assert model == before


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced"])
def test_head_that_names_no_loss_does_not_count_255_either(loss):
    model = model_config()
    del model.decode_head["loss_decode"]
    choose_loss(model, loss)
    head = HeadsAlone(model).decode_head
    torch.manual_seed(0)
    scores, labels = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 1, 8, 8))
    labels[..., 3:] = 255
    samples = as_samples(labels)
    cut = as_samples(labels[..., :3])
    whole = head.loss_by_feat(scores, samples)["loss_ce"]
    assert torch.allclose(whole, head.loss_by_feat(scores[..., :3], cut)["loss_ce"])


@pytest.mark.parametrize(
    "name, reason",
    [
        (FAST_SCNN, "a sigmoid loss of DepthwiseSeparableFCNHead"),
        ("encnet/encnet_r50-d8_4xb4-20k_voc12aug-512x512.py", "a sigmoid loss of EncHead"),
    ],
)
def test_sigmoid_losses_cannot_be_balanced(name, reason):
    with pytest.raises(UserError, match=reason) as caught:
        choose_loss(model_config(name), "balanced")
    assert "\n" not in str(caught.value)


def test_head_without_cross_entropy_cannot_be_balanced():
    model = model_config()
    model.decode_head.loss_decode = {"type": "FocalLoss"}
    with pytest.raises(UserError, match="FocalLoss of DepthwiseSeparableASPPHead"):
        choose_loss(model, "balanced")


@pytest.mark.parametrize(
    "wrong, nearest", [("balance", "balanced"), ("crossentropi", "cross_entropy")]
)
def test_unknown_loss_gives_the_nearest(wrong, nearest):
    with pytest.raises(UserError, match=f"segmenter.loss={wrong} .*did you mean {nearest}"):
        check(tiny_settings(loss=wrong), "segmenter")
