"""Image towers and CLIPs against timm and transformers, on small random weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import BICUBIC, BILINEAR
from pipeline.clip.models.tipsv2.model import TextTower, build
from pipeline.clip.origins.hub_folder import build_clip
from pipeline.clip.origins.origin import find_origin
from pipeline.clip.text import prompt_features
from pipeline.clip.weights.layouts import (
    TRANSFORMERS_CLIP,
    build_vision_transformer,
    part_of,
    rename,
)
from tests import small_models
from tests.extras import library
from tests.golden_models import draw_pixels

GRIDS = [(4, 4), (3, 5), (7, 6)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("registers", "antialias"), [(4, BICUBIC), (1, BILINEAR)])
@torch.no_grad()
def test_the_vision_transformer_is_timms(grid, registers, antialias):
    stretch = {**antialias, "antialias": True}
    weights = small_models.draw(small_models.dinov2(registers=registers), 3)
    small = {"dimensions": Dimensions(3, 14, 56), "heads": 2, "head_width": 8}
    release = replace(releases()["talk2dino_b14"], **small, registers=registers)
    tower = build_vision_transformer(weights, release, stretch=stretch, temperature=1.0)
    encoder, pixels = ClipEncoder(tower), draw_pixels(grid)
    theirs = timm.models.VisionTransformer(
        img_size=tuple(14 * side for side in grid),
        patch_size=14,
        embed_dim=small_models.WIDTH,
        depth=3,
        num_heads=2,
        reg_tokens=registers,
        no_embed_class=True,
        init_values=1.0,
        num_classes=0,
    ).eval()
    table = weights["pos_embed"][0]
    native = table[1:].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    resized = native if grid == (4, 4) else F.interpolate(native, grid, **stretch)
    renamed = {name: value for name, value in weights.items() if name != "mask_token"}
    renamed["reg_token"] = renamed.pop("register_tokens")
    renamed["cls_token"] = weights["cls_token"] + table[:1]
    renamed["pos_embed"] = resized.flatten(2).mT
    theirs.load_state_dict(renamed)
    expected = theirs.forward_features(pixels)
    found = encoder.attended(encoder.backbone(pixels))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.extras
@pytest.mark.parametrize("as_released", [True, False])
@torch.no_grad()
def test_tipsv2_is_that_of_transformers_in_both_layouts(tmp_path, as_released):
    transformers = library("transformers")
    shared = {"hidden_size": small_models.WIDTH, "num_attention_heads": 2}
    config = transformers.Tipsv2Config(
        vision_config={**shared, "num_hidden_layers": 3, "image_size": 56},
        text_config={**shared, "num_hidden_layers": 2, "vocab_size": 150, "intermediate_size": 64},
    )
    theirs = transformers.Tipsv2Model(config).eval()
    for number, parameter in enumerate(theirs.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path, save_original_format=as_released)
    small = {"dimensions": Dimensions(3, 14, 56), "heads": 2, "head_width": 8}
    release = replace(releases()["tipsv2_b14"], **small, text_heads=2)
    files = {"weights": tmp_path / "model.safetensors", "tokenizer": tmp_path / "not_read"}
    encoder = ClipEncoder(build(release, files, "cpu").image)
    assert encoder.temperature == pytest.approx(1 / float(theirs.temperature))
    for grid in GRIDS:
        pixels = draw_pixels(grid)
        expected = theirs.vision_model(pixels).last_hidden_state
        found = encoder.attended(encoder.backbone(pixels))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    saved = load_file(files["weights"])
    numbers = torch.tensor([[5, 9, 80, 3, 0, 0], [7, 7, 7, 12, 149, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    expected = theirs.text_model(numbers, attention_mask=mask).pooler_output
    text = part_of(saved, "text_encoder.")
    assert bool(text) == as_released
    text = text or rename(part_of(saved, "text_model."), TRANSFORMERS_CLIP)
    tower = TextTower(text, 2)
    found = tower([numbers[0, :4].tolist(), numbers[1].tolist()])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


CLIPS = {
    "clip": ("CLIP", {}),
    "clip_gelu": ("CLIP", {"hidden_act": "gelu"}),
    "metaclip_2": ("MetaClip2", {"vocab_size": 500, "eos_token_id": 2}),
}


@pytest.mark.extras
@pytest.mark.parametrize("kind", CLIPS)
@torch.no_grad()
def test_clips_are_those_of_transformers(kind, tmp_path):
    transformers = library("transformers")
    name, text = CLIPS[kind]
    both = {"num_attention_heads": 2, "projection_dim": 8}
    both |= {key: value for key, value in text.items() if key == "hidden_act"}
    config = getattr(transformers, f"{name}Config")(
        projection_dim=8,
        vision_config={
            **both,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "intermediate_size": 48,
            "image_size": 64,
            "patch_size": 16,
        },
        text_config={
            **both,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "intermediate_size": 36,
            **text,
        },
    )
    theirs = getattr(transformers, f"{name}Model")(config).eval()
    for number, parameter in enumerate(theirs.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]})
    )
    origin = find_origin(None, None, str(tmp_path))
    assert origin.dimensions == (3, 16, 64)
    assert origin.pretraining.normalisation.mean == (0.5, 0.4, 0.3)
    encoder = ClipEncoder(origin.load("cpu").image)
    for grid in GRIDS:
        pixels = draw_pixels(grid, 16)
        inputs = encoder.backbone(pixels)
        # All CLIPs here stretch positions as TagCLIP does, and transformers bicubically.
        embeddings = theirs.vision_model.embeddings
        positions = encoder.position_embedding(*grid)[None]
        embeddings.interpolate_pos_encoding = lambda *_, given=positions: given
        seen = theirs.vision_model(pixels, interpolate_pos_encoding=True)
        expected = F.normalize(theirs.visual_projection(seen.pooler_output), dim=-1)
        torch.testing.assert_close(encoder.image_features(pixels), expected, atol=1e-5, rtol=0)
        tokens = theirs.vision_model.post_layernorm(seen.last_hidden_state)
        expected = F.normalize(theirs.visual_projection(tokens), dim=-1)
        found = encoder.attended_features(inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    saved = json.loads((tmp_path / "config.json").read_text())
    quick = origin.pretraining.quick_gelu
    clip = build_clip(saved, tmp_path / "model.safetensors", "cpu", quick)
    tokens = torch.randint(3, 400, (4, 77), generator=torch.Generator().manual_seed(2))
    for row, length in zip(tokens, (5, 9, 30, 76)):
        row[length:] = 1 if kind == "metaclip_2" else 0
        row[length] = config.text_config.eos_token_id
    found = prompt_features(clip, lambda _: tokens, [""] * 2, ["{}"] * 2).flatten(0, 1)
    expected = theirs.text_projection(theirs.text_model(tokens).pooler_output)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
