"""The features of dense methods against those of their authors' code, on the same weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.clip.encoder import BlockInput, ClipEncoder, to_pixels
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.dense.gem.method import SelfSelfPath
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.dense.windows import with_scaled_positions
from pipeline.tags.piaa.patches import BatchedScClip
from tests.dense.naive import embed_patches
from tests.golden_models import assert_close
from tests.methods import dense_method


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> dict[str, np.ndarray]:
    with np.load(golden_folder / "dense.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def encoder(golden_folder: Path) -> ClipEncoder:
    return ClipEncoder(ImageTower.of(load_clip(golden_folder / "tiny_clip_openai_format.pt")))


@pytest.mark.parametrize("size", ["224", "wide"])
@pytest.mark.parametrize("name", ["sclip", "naclip", "itaclip"])
def test_features_are_the_released_ones(encoder, golden, name, size):
    method = dense_method(name)
    for image_id in golden["ids"]:
        image = golden[f"{image_id}/image_{size}"]
        pixels = to_pixels(image, *image.shape[:2])[None]
        features = embed_patches(method, with_scaled_positions(encoder), pixels)[0]
        assert_close(features, golden[f"{image_id}/{name}_{size}"][1:])


def test_features_of_sc_clip_are_the_released_ones(encoder, golden):
    method = dense_method("sc_clip")
    for image_id in golden["ids"]:
        pixels = to_pixels(golden[f"{image_id}/image_224"], 224, 224)[None]
        assert_close(embed_patches(method, encoder, pixels)[0], golden[f"{image_id}/sc_clip_224"])


def test_features_of_sc_clip_in_a_batch_are_those_of_piaas_code(encoder, golden):
    images = [golden[f"{image_id}/image_224"] for image_id in golden["ids"]]
    pixels = torch.stack([to_pixels(image, 224, 224) for image in images])
    features = embed_patches(BatchedScClip(ScClipSettings()), encoder, pixels)
    assert_close(features, golden["piaa_sc_clip_batch"])


def test_attention_of_gem_is_the_released_one(encoder, golden):
    normed, block = torch.from_numpy(golden["gem_tokens"])[None], encoder.last_block
    plain = SimpleNamespace(ln_1=lambda tokens: tokens, attention_output=block.attention_output)
    inputs = BlockInput(normed, *block.project(normed))
    attended = SelfSelfPath(1).attention(plain, inputs)[0]
    assert_close(attended, golden["gem_attention"])


def test_features_of_resclip_are_the_released_ones(encoder, golden):
    method = dense_method("resclip", confidence=0.05)
    text = torch.from_numpy(golden["resclip_text"])
    names = NameEmbeddings(text, torch.arange(len(text)), 40.0)
    for image_id in golden["ids"]:
        seen = method.run_pass(encoder, to_pixels(golden[f"{image_id}/image_224"], 224, 224)[None])
        features = method.patch_features(encoder, seen, names)[0]
        # The released code rounds the feedback to float16.
        assert_close(features, golden[f"{image_id}/resclip_224"][1:], 2e-4)
