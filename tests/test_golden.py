"""Ours against the released code's own outputs, step by step, on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from pipeline.cams.cams import Cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import class_embeddings, prompts_of
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.files.images import decode_image
from pipeline.masks.crf import CrfOptions
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from pipeline.tags.tagclip.refinement import VotedAttention, refine
from pipeline.tags.tagger import choose_tags
from tests.methods import ALONE, RELEASED, cams_of, scores_of

CLASSES = 10


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> dict[str, np.ndarray]:
    with np.load(golden_folder / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def images(golden_folder: Path, golden: dict) -> dict[str, np.ndarray]:
    return {i: decode_image(golden_folder / "images" / f"{i}.jpg") for i in golden["ids"].tolist()}


@pytest.fixture(scope="module")
def clip(golden_folder: Path) -> open_clip.CLIP:
    return load_clip(golden_folder / "tiny_clip_openai_format.pt")


@pytest.fixture(scope="module")
def encoder(clip: open_clip.CLIP) -> ClipEncoder:
    return ClipEncoder(ImageTower.of(clip), position_fp16=True)


@pytest.fixture(scope="module")
def tag_text(golden: dict) -> torch.Tensor:
    return torch.from_numpy(golden["tag_text_features"])


def test_class_embeddings_are_the_released_ones(clip, golden):
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    names = [*golden["classes"].tolist(), *golden["backgrounds"].tolist()]
    cams = class_embeddings(clip, tokenizer, [*zip(names)], prompts_of("clip_es"))
    np.testing.assert_allclose(cams, golden["cam_text_features"], atol=1e-5)
    few = [0, 9, 15]
    tags = class_embeddings(clip, tokenizer, [(names[k],) for k in few], prompts_of("tagclip"))
    np.testing.assert_allclose(tags, golden["tag_text_features"][few], atol=1e-5)


def test_scores_before_and_after_dmar_are_the_released_ones(encoder, images, golden, tag_text):
    for image_id, image in images.items():
        pixels = encoder.prepare(image).unsqueeze(0)
        attention = VotedAttention(range(9, 12), votes=4)
        tokens = encoder.backbone(pixels, attention)
        coarse = encoder.classify(encoder.value_features(tokens), tag_text)
        np.testing.assert_allclose(coarse[0], golden[f"{image_id}/coarse"], atol=1e-5)
        grid = (pixels.shape[2] // 16, pixels.shape[3] // 16)
        refined = refine(attention.result(), coarse, grid, open_border=True)
        np.testing.assert_allclose(refined[0], golden[f"{image_id}/dmar"], atol=1e-5)


def test_final_scores_and_tags_are_the_released_ones(encoder, images, golden, tag_text):
    tagger = TagClip(encoder, tag_text, CLASSES, TagClipOptions(), ALONE, RELEASED)
    results = scores_of(tagger, list(images.values()), ["dmar"])
    for ours, theirs in (("dmar", "scores_local"), ("scores", "scores_final")):
        np.testing.assert_allclose([r[ours] for r in results], golden[theirs], atol=1e-5)
    for image_id, result in zip(images, results):
        assert choose_tags(result["scores"], 0.5) == tuple(golden[f"{image_id}/tags"])


@pytest.mark.large
def test_maps_and_masks_are_the_released_ones(encoder, images, golden):
    text = torch.from_numpy(golden["cam_text_features"])
    method = ClipEs(encoder, text[:CLASSES], text[CLASSES:], ClipEsOptions(), ALONE, RELEASED)
    agreeing = {"released": 0, "clean": 0}
    pixels = 0
    for image_id, image in images.items():
        tags = golden[f"{image_id}/tags"]
        maps = cams_of(method, image, tags.tolist())
        np.testing.assert_allclose(maps, golden[f"{image_id}/cams"], atol=1e-4)
        cams = Cams(tags, maps.astype(np.float16), image.shape[:2])
        for compat in agreeing:
            quirks = dict.fromkeys(("bgr", "fp16"), compat == "released")
            labels, _ = pseudo_mask(image, cams, CrfOptions(), **quirks)
            agreeing[compat] += (labels == golden[f"{image_id}/mask_{compat}"]).sum()
        pixels += image.shape[0] * image.shape[1]
    assert agreeing["released"] >= 0.999 * pixels
    assert agreeing["clean"] >= 0.999 * pixels
