"""Grad-CAM and the affinity against slow and simple versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.cams.affinity import affinity, refine_cams
from pipeline.cams.cams import Cams, encode_cams, read_cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.cams.gradcam import attention_vjp_sums, normalise, softmax_gradcam
from pipeline.errors import ImageError
from tests.clip.naive_boxes import naive_union
from tests.methods import ALONE, RELEASED, cams_of
from tests.small_runs import draw_photograph


def test_gradients_are_those_of_one_tag_at_a_time(tiny_clip, encoder, text):
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        inputs = encoder.backbone(pixels)
    cams = softmax_gradcam(encoder, inputs, text, 3)
    tokens = inputs.tokens

    visual = tiny_clip.visual
    block = visual.transformer.resblocks[-1]
    for tag in range(3):
        normed = block.ln_1(tokens).detach().requires_grad_()
        x = tokens + block.attn(normed, normed, normed, need_weights=False)[0]
        x = visual.ln_post(x + block.mlp(block.ln_2(x)))
        image = F.normalize(x[0, 1:].mean(0) @ visual.proj, dim=0)
        score = (tiny_clip.logit_scale.exp() * text @ image).softmax(0)[tag]
        score.backward()
        weight = normed.grad[0, 1:].mean(0)
        cam = np.maximum((normed[0, 1:].detach() @ weight).numpy(), 0)
        for _ in range(2):
            cam = cam - cam.min()
            cam = cam / (1e-7 + cam.max())
        np.testing.assert_allclose(cams[tag], cam, atol=1e-4)
    assert (cams.amax(1) > 0.99).all(), "the CAMs have to show something in this test"


@pytest.mark.parametrize("prefix", [1, 3])
def test_sums_of_an_attentions_gradients_are_those_of_autograd(prefix):
    generator = torch.Generator().manual_seed(6)
    heads, count, width, scores = 3, 7, 4, 2
    query, key, value = torch.randn(3, heads, count, width, generator=generator).requires_grad_()
    gradients = torch.randn(scores, heads, count, width, generator=generator)
    gradients[:, :, :prefix] = 0  # the outputs of other tokens than patches do not contribute
    attention = (query @ key.mT / width**0.5).softmax(-1)
    attended = attention @ value
    parts = (query, key, value)
    with torch.no_grad():
        sums = attention_vjp_sums(gradients, attended, attention, *parts, prefix=prefix)
    assert sums.shape == (scores, 3 * heads * width)
    for found, of_score in zip(sums, gradients):
        expected = torch.autograd.grad((attended * of_score).sum(), parts, retain_graph=True)
        side_by_side = torch.cat([part[:, prefix:].sum(1).flatten() for part in expected])
        torch.testing.assert_close(found, side_by_side, atol=1e-5, rtol=1e-5)


def test_no_parameter_gets_a_gradient(tiny_clip, encoder, text):
    softmax_gradcam(encoder, encoder.backbone(torch.zeros(1, 3, 64, 64)), text, 2)
    assert all(p.grad is None for p in tiny_clip.parameters())


def naive_affinity(attention: np.ndarray) -> np.ndarray:
    balanced, count = attention.astype(float), len(attention)
    for _ in range(3):
        for j in range(count):
            balanced[:, j] /= sum(balanced[i, j] for i in range(count))
        for i in range(count):
            balanced[i] /= sum(balanced[i, j] for j in range(count))
    np.testing.assert_allclose(balanced.sum(1), 1, rtol=1e-12)
    together = (balanced + balanced.T) / 2
    return together @ together


@pytest.mark.parametrize("seed", range(3))
def test_affinity_is_the_naive_one(seed: int):
    matrix = np.random.default_rng(seed).random((6, 6)).astype(np.float32) + 0.01
    np.testing.assert_allclose(
        affinity(torch.from_numpy(matrix)), naive_affinity(matrix), rtol=1e-5
    )


@pytest.mark.parametrize("open_border", [True, False])
def test_refined_cams_are_the_naive_ones(open_border: bool):
    grid, rng = (3, 4), np.random.default_rng(0)
    cams = normalise(torch.from_numpy(rng.random((2, 12))).float() ** 3)
    attention = torch.from_numpy(rng.random((12, 12))).float()
    refined = refine_cams(cams, attention, grid, threshold=0.4, open_border=open_border)

    together = naive_affinity(attention.numpy())
    for k in range(2):
        box = naive_union(cams[k].numpy().reshape(grid), 0.4, open_border).reshape(-1)
        expected = np.array(
            [sum(together[i, j] * cams[k, j] for j in range(12) if box[j]) for i in range(12)]
        )
        expected = (expected - expected.min()) / (1e-7 + (expected - expected.min()).max())
        np.testing.assert_allclose(refined[k], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "blocks"), [([2, 3], [2, 3]), ([-3, -1], [1, 2, 3]), ([0, 0], [4])]
)
def test_cams_are_refined_by_the_mean_of_their_blocks(encoder, text, window, blocks):
    image, attentions = draw_photograph(0, 64, 96), {}
    options = ClipEsOptions(affinity_blocks=window)
    method = ClipEs(encoder, text[:3], text[3:], options, ALONE, RELEASED)
    cams = cams_of(method, image, [0, 2])
    with torch.no_grad():
        inputs = encoder.backbone(
            encoder.prepare(image)[None],
            lambda number, attention: attentions.update({number: attention[0].numpy()}),
        )
    coarse = softmax_gradcam(encoder, inputs, text[[0, 2, 3, 4]], 2)
    together = naive_affinity(np.mean([attentions[number] for number in blocks], axis=0))
    for cam, found in zip(coarse.numpy(), cams):
        box = naive_union(cam.reshape(4, 6), 0.4, open_border=True).reshape(-1)
        expected = together @ (cam * box)
        expected = (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-4)


def test_cams_of_a_tag_depend_on_the_other_tags_but_not_on_their_order(encoder, text):
    options = ClipEsOptions(affinity_blocks=[-2, -1])
    method = ClipEs(encoder, text[:3], text[3:], options, ALONE, RELEASED)
    image = draw_photograph(0, 64, 96)
    both = cams_of(method, image, [0, 2])
    assert both.shape == (2, 4, 6)
    np.testing.assert_allclose(both[::-1], cams_of(method, image, [2, 0]), atol=1e-5)
    assert cams_of(method, image, []).shape == (0, 4, 6)


def test_stored_cams_are_read_back(tmp_path):
    cams = np.random.default_rng(0).random((2, 3, 4)).astype(np.float16)
    path = tmp_path / "a.npz"
    path.write_bytes(encode_cams(Cams(np.array([4, 7]), cams, (45, 60))))
    stored = read_cams(path)
    assert stored.classes.tolist() == [4, 7] and stored.classes.dtype == np.int64
    assert stored.size == (45, 60)
    np.testing.assert_array_equal(stored.cams, cams)
    assert stored.cams.dtype == np.float16
    assert stored.resized(45, 60).shape == (2, 45, 60)
    assert Cams(cams[:0, 0, 0], cams[:0], (45, 60)).resized(45, 60).shape == (0, 45, 60)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match="damaged"):
        read_cams(path)


def test_the_cams_of_train_aug_fit_in_100_megabytes():
    cams = np.random.default_rng(0).random((2, 24, 32))  # noise does not compress
    encoded = encode_cams(Cams(np.array([3, 14]), cams, (375, 500)))
    assert 10_582 * len(encoded) < 100e6
