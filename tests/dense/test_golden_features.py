"""The features of dense methods against those of their authors' code, on the same weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipeline.clip.encoder import BlockInput, to_pixels
from pipeline.dense.gem.method import SelfSelfPath
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.sc_clip import ScClipSettings
from pipeline.dense.windows import with_scaled_positions
from pipeline.tags.piaa.patches import BatchedScClip
from tests.dense.naive import embed_patches
from tests.golden_models import assert_close
from tests.methods import dense_method


@pytest.mark.parametrize("size", ["224", "wide"])
@pytest.mark.parametrize("name", ["sclip", "naclip", "itaclip"])
def test_features_are_the_released_ones(plain, golden, name, size):
    method = dense_method(name)
    for image_id in golden["ids"]:
        image = golden[f"{image_id}/image_{size}"]
        pixels = to_pixels(image, *image.shape[:2])[None]
        features = embed_patches(method, with_scaled_positions(plain), pixels)[0]
        assert_close(features, golden[f"{image_id}/{name}_{size}"][1:])


def test_features_of_sc_clip_are_the_released_ones(plain, golden):
    method = dense_method("sc_clip")
    for image_id in golden["ids"]:
        pixels = to_pixels(golden[f"{image_id}/image_224"], 224, 224)[None]
        assert_close(embed_patches(method, plain, pixels)[0], golden[f"{image_id}/sc_clip_224"])


def test_features_of_sc_clip_in_a_batch_are_those_of_piaas_code(plain, golden):
    images = [golden[f"{image_id}/image_224"] for image_id in golden["ids"]]
    pixels = torch.stack([to_pixels(image, 224, 224) for image in images])
    features = embed_patches(BatchedScClip(ScClipSettings()), plain, pixels)
    assert_close(features, golden["piaa_sc_clip_batch"])


def test_attention_of_gem_is_the_released_one(plain, golden):
    normed, block = torch.from_numpy(golden["gem_tokens"])[None], plain.last_block
    bare = SimpleNamespace(ln_1=lambda tokens: tokens, attention_output=block.attention_output)
    inputs = BlockInput(normed, *block.project(normed))
    attended = SelfSelfPath(1).attention(bare, inputs)[0]
    assert_close(attended, golden["gem_attention"])


def test_features_of_resclip_are_the_released_ones(plain, golden):
    method = dense_method("resclip", confidence=0.05)
    text = torch.from_numpy(golden["resclip_text"])
    names = NameEmbeddings(text, torch.arange(len(text)), 40.0)
    for image_id in golden["ids"]:
        seen = method.run_pass(plain, to_pixels(golden[f"{image_id}/image_224"], 224, 224)[None])
        features = method.patch_features(plain, seen, names)[0]
        # The released code rounds the feedback to float16.
        assert_close(features, golden[f"{image_id}/resclip_224"][1:], 2e-4)
