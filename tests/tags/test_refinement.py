"""DMAR against loops that follow the text of the paper, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from pipeline.tags.tagclip.refinement import VotedAttention, refine
from tests.clip.naive_boxes import naive_union
from tests.methods import ALONE, RELEASED, scores_of
from tests.small_runs import draw_photograph

GRID = (5, 7)
PATCHES = GRID[0] * GRID[1]


def random_attentions(rng: np.random.Generator, blocks: int) -> np.ndarray:
    logits = rng.normal(size=(blocks, PATCHES, PATCHES)) * 2
    weights = np.exp(logits)
    return (weights / (weights.sum(-1, keepdims=True) * 1.1)).astype(np.float32)


def naive_voted_attention(attentions: np.ndarray, window: range, votes: int) -> np.ndarray:
    result = np.zeros((PATCHES, PATCHES))
    means = [float(a.mean(dtype=np.float64)) for a in attentions]
    for i in range(PATCHES):
        for j in range(PATCHES):
            count = sum(float(a[i, j]) > m for a, m in zip(attentions, means))
            if count >= votes:
                result[i, j] = np.mean([attentions[b - 1][i, j] for b in window])
    return result


def naive_refine(attention: np.ndarray, scores: np.ndarray, open_border: bool) -> np.ndarray:
    first = attention @ scores
    result = np.zeros_like(scores)
    for c in range(scores.shape[1]):
        column = first[:, c].astype(np.float32).reshape(GRID)
        if column.max() <= 0:
            continue
        scaled = (column - column.min()) / (column.max() - column.min())
        box = naive_union(scaled, float(scaled.mean()), open_border).reshape(-1)
        for i in range(PATCHES):
            result[i, c] = sum(attention[i, j] * scores[j, c] for j in range(PATCHES) if box[j])
    return result


@pytest.mark.parametrize("seed", range(3))
def test_votes_are_counted_entry_by_entry(seed: int):
    rng = np.random.default_rng(seed)
    attentions = random_attentions(rng, blocks=6)
    voted = VotedAttention(range(3, 6), votes=2)
    for number, attention in enumerate(attentions, 1):
        voted(number, torch.from_numpy(attention).unsqueeze(0))
    expected = naive_voted_attention(attentions, range(3, 6), votes=2)
    np.testing.assert_allclose(voted.result()[0], expected, atol=1e-6)
    assert 0.05 < (expected == 0).mean() < 0.95, "the mask has to do something in this test"


@pytest.mark.parametrize("open_border", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_refinement_is_the_naive_one(seed: int, open_border: bool):
    rng = np.random.default_rng(seed)
    attention = random_attentions(rng, 1)[0] * (rng.random((PATCHES, PATCHES)) < 0.5)
    scores = rng.dirichlet(np.ones(4) * 0.3, PATCHES).astype(np.float32)
    scores[:, 3] = 0
    refined = refine(
        torch.from_numpy(attention).unsqueeze(0),
        torch.from_numpy(scores).unsqueeze(0),
        GRID,
        open_border=open_border,
    )
    np.testing.assert_allclose(refined[0], naive_refine(attention, scores, open_border), atol=1e-5)


def test_a_class_without_foreground_has_no_mask():
    attention, scores = torch.ones(1, PATCHES, PATCHES), torch.ones(1, PATCHES, 2)
    assert not refine(attention, scores, GRID, open_border=False).any()


@pytest.mark.parametrize(
    ("window", "blocks"), [([2, 3], (2, 3)), ([-3, -1], (1, 2, 3)), ([0, 0], (4,))]
)
def test_the_tagger_averages_its_window_and_lets_all_blocks_vote(tiny_clip, window, blocks):
    encoder, image = (
        ClipEncoder(ImageTower.of(tiny_clip)),
        draw_photograph(3, 16 * GRID[0], 16 * GRID[1]),
    )
    text = torch.nn.functional.normalize(
        torch.randn(6, 32, generator=torch.Generator().manual_seed(3)), dim=-1
    )
    options = TagClipOptions(attention_blocks=window, votes=2, reidentify=False)
    tagger = TagClip(encoder, text, 4, options, ALONE, RELEASED)
    [scores] = scores_of(tagger, [image])

    attentions = []
    with torch.no_grad():
        inputs = encoder.backbone(encoder.prepare(image)[None], lambda _, a: attentions.append(a))
        coarse = encoder.classify(encoder.value_features(inputs), text)[0].numpy()
    attention = naive_voted_attention([a[0].numpy() for a in attentions], blocks, votes=2)
    expected = naive_refine(attention, coarse, open_border=True)[:, :4].max(0)
    np.testing.assert_allclose(scores["scores"], expected, atol=1e-6)
