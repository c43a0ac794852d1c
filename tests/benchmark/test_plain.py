"""The plain version is an oracle for ours: the same scores and CAMs, however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.device import Batches
from pipeline.clip.text import class_embeddings, load_tokenizer, prompts_of
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from tests.methods import RELEASED, cams_of, scores_of
from tests.small_runs import draw_photograph
from tools.benchmark import plain

BATCHES = Batches(images=2, crops=3, waiting=32)


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return F.normalize(torch.randn(7, 32, generator=torch.Generator().manual_seed(5)), dim=-1)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_plain_version(encoder, text, seed):
    image = draw_photograph(seed, 70 + 16 * seed, 96)
    options = TagClipOptions(attention_blocks=[-2, -1], votes=2)
    tagger = TagClip(encoder, text, 4, options, BATCHES, RELEASED)
    expected = plain.tag(encoder, tagger, image)
    (found,) = scores_of(tagger, [image])
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_cams_are_those_of_the_plain_version(encoder, text, seed):
    image, tags = draw_photograph(seed, 80, 64 + 16 * seed), [0, 2]
    options = ClipEsOptions(affinity_blocks=[-2, 0])
    method = ClipEs(encoder, text[:4], text[4:], options, BATCHES, RELEASED)
    expected = plain.cams(encoder, method, image, tags)
    np.testing.assert_allclose(cams_of(method, image, tags), expected, atol=1e-4)


def test_names_are_embedded_as_by_the_plain_version(tiny_clip):
    tokenizer, names = load_tokenizer(None), ["cat", "traffic light"]
    found = class_embeddings(tiny_clip, tokenizer, [*zip(names)], prompts_of("tagclip"))
    for name, embedding in zip(names, found):
        expected = plain.embed_name(tiny_clip, tokenizer, name, prompts_of("tagclip"))
        torch.testing.assert_close(embedding, expected, atol=2e-6, rtol=0)
