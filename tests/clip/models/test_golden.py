"""Image-text models against the arrays of their released code, on the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.clip.models.dinov2.dinotxt import build_text_tower
from pipeline.clip.models.dinov2.talk2dino import project_text
from pipeline.clip.models.tipsv2.model import TextTower
from pipeline.clip.text import join_prompts, prompt_features
from pipeline.clip.weights.layouts import part_of, read_floats
from tests.golden_models import assert_close

SIZES = ["native", "wide"]


def pixels_of(encoder: ClipEncoder, image) -> torch.Tensor:
    return to_pixels(image, *image.shape[:2], encoder.normalisation)[None]


def all_tokens(encoder: ClipEncoder, pixels: torch.Tensor, blocks: range) -> torch.Tensor:
    found = encoder.tokens_after(pixels, blocks)
    return torch.cat([encoder.embed_patches(pixels), *(found[number] for number in blocks)])


@pytest.mark.parametrize("size", SIZES)
def test_the_image_tower_of_tipsv2(build, arrays, size):
    encoder, golden = ClipEncoder(build("tipsv2_b14").image), arrays("tips")
    pixels, grid = pixels_of(encoder, golden[f"{size}/image"]), golden[f"{size}/cosines"].shape[1:]
    tokens = all_tokens(encoder, pixels, range(1, 5))
    assert_close(tokens, golden[f"{size}/tokens"])
    embeddings = encoder.embed(tokens[-1])
    assert_close(embeddings[0], golden[f"{size}/class"])
    assert_close(embeddings[1], golden[f"{size}/register"])
    assert_close(embeddings[2:], golden[f"{size}/patches"])
    inputs, names = encoder.backbone(pixels), torch.from_numpy(golden["text/names"])
    value = encoder.last_block.finish(inputs.tokens, inputs.value)[0]
    assert_close(value, golden[f"{size}/value_tokens"])
    assert_close(encoder.patches(encoder.embed(value)), golden[f"{size}/value_patches"])
    cosines = encoder.value_features(inputs)[0] @ names.T
    assert_close(cosines.T.unflatten(1, grid), golden[f"{size}/cosines"])
    for whole in (encoder.image_features(pixels), encoder.whole_image_features(inputs)):
        assert_close(encoder.temperature * whole @ names.T, golden[f"{size}/image_logits"])


def test_the_positions_of_tipsv2(build, arrays):
    tower = build("tipsv2_b14").image
    assert_close(tower.position_embedding(7, 11), arrays("tips")["wide/positions"])


def test_the_text_tower_of_tipsv2(tips_weights, arrays):
    golden = arrays("tips")
    weights = {name: tensor.float() for name, tensor in tips_weights.items()}
    tower = TextTower(part_of(weights, "text_encoder."), 4)
    rows = zip(golden["text/ids"].reshape(-1, 12), golden["text/padding"].reshape(-1, 12))
    sentences = [ids[padding == 0].tolist() for ids, padding in rows]
    vectors = tower(sentences).unflatten(0, (7, 3))
    assert_close(vectors, golden["text/vectors"])
    assert_close(join_prompts(vectors.transpose(0, 1)), golden["text/names"])
    assert_close(tower(golden["text/long_ids"].tolist())[0], golden["text/long_vector"])
    states = torch.cat(tower.states(torch.tensor(sentences[:1])))
    assert_close(states, golden["text/states"][:, : len(sentences[0])])


@pytest.mark.parametrize("size", ["native", "crop", "wide"])
def test_the_image_tower_of_dinov2(build, arrays, size):
    encoder, golden = ClipEncoder(build("talk2dino_b14").image), arrays("dinov2")
    pixels = pixels_of(encoder, golden[f"{size}/image"])
    tokens = all_tokens(encoder, pixels, range(1, 5))
    if size != "crop":
        assert_close(tokens, golden[f"{size}/tokens"])
    if size != "native":
        grid = pixels.shape[-2] // 14, pixels.shape[-1] // 14
        assert_close(encoder.position_embedding(*grid), golden[f"{size}/positions"])
    embeddings = encoder.embed(tokens[-1])
    assert_close(embeddings[0], golden[f"{size}/class"])
    assert_close(embeddings[1:5], golden[f"{size}/registers"])
    assert_close(encoder.patches(embeddings), golden[f"{size}/patches"])


def test_the_projection_of_talk2dino(models_folder, arrays):
    golden = arrays("talk2dino")
    weights = read_floats(models_folder / "weights_talk2dino.safetensors", "cpu")
    given = torch.from_numpy(golden["text/clip"]).mean(1)
    for layer in ("hidden_layers.0", "linear_layer2"):  # as older files call it
        renamed = {k.replace("hidden_layers.0", layer): v for k, v in weights.items()}
        assert_close(project_text(renamed, given), golden["text/projected"])
    assert_close(F.normalize(project_text(weights, given), dim=-1), golden["text/names"])


@pytest.mark.parametrize("size", SIZES)
def test_the_image_tower_of_dinotxt(build, arrays, size):
    encoder, golden = ClipEncoder(build("dinotxt_l14").image), arrays("dinotxt")
    pixels = pixels_of(encoder, arrays("dinov2")[f"{size}/image"])
    tokens = all_tokens(encoder, pixels, range(5, 7))[1:]
    assert_close(tokens, golden[f"{size}/head_tokens"])
    embeddings = encoder.embed(tokens[-1])
    assert_close(embeddings[0], golden[f"{size}/class"])
    assert_close(encoder.patches(embeddings), golden[f"{size}/patches"])
    inputs, names = encoder.backbone(pixels), torch.from_numpy(golden["text/names"])
    first = torch.from_numpy(golden["text/vectors"])[:, 0]
    for whole in (encoder.image_features(pixels)[0], encoder.whole_image_features(inputs)[0]):
        assert_close(names @ whole, golden[f"{size}/image_cosines"])
        logits = encoder.temperature * F.normalize(first, dim=-1) @ whole
        assert_close(logits, golden[f"{size}/image_logits"])
    patches = encoder.patches(encoder.attended_features(inputs))[0]
    cosines = (patches @ F.normalize(first[:, first.shape[1] // 2 :], dim=-1).T).T
    assert_close(cosines.view(golden[f"{size}/cosines"].shape), golden[f"{size}/cosines"])


def test_the_text_tower_of_dinotxt(models_folder, arrays):
    golden = arrays("dinotxt")
    tower = build_text_tower(
        read_floats(models_folder / "weights_dinotxt_text.safetensors", "cpu"), 4
    )
    numbers = torch.zeros(3, 7, 77, dtype=torch.int64)
    numbers[..., :16] = torch.from_numpy(golden["text/ids"]).transpose(0, 1)
    given = [""] * 7, ["{}"] * 3
    vectors = prompt_features(tower, lambda prompts: numbers.flatten(0, 1), *given)
    assert_close(vectors.transpose(0, 1), golden["text/vectors"])
    assert_close(join_prompts(vectors), golden["text/names"])
