"""A frozen vision transformer as a backbone: its tokens are the encoder's, its weights stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipeline.clip.device import Batches
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import AS_DINO, BICUBIC, BILINEAR, ImageTower
from pipeline.clip.models.dinov2 import dinotxt
from pipeline.clip.weights.layouts import build_vision_transformer
from pipeline.errors import UserError
from pipeline.segmenter.architecture import check_sizes, timm_maps
from pipeline.segmenter.checkpoints import read_checkpoint
from pipeline.segmenter.mmseg import build_config, build_model, import_mmseg
from pipeline.segmenter.mmseg_network import MmsegNetwork
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.settings import side_divisor, whole_patches
from tests import small_models
from tests.segmenter.tiny_training import (
    CLASS_NAMES,
    PALETTE,
    tiny_settings,
    train_tiny,
    training_stage,
    write_pairs,
)
from tests.small_runs import draw_photograph
from tests.tiny_clip import build_tiny_clip

import_mmseg()

from pipeline.segmenter.frozen_tower import FrozenTower, describe  # noqa: E402


def of_release(registers: int = 0, **more: object) -> ImageTower:
    weights = small_models.draw(small_models.dinov2(registers=registers), 5)
    release = releases()["talk2dino_b14"]
    sizes = {"dimensions": Dimensions(3, 14, 56), "heads": 2, "head_width": 8, "registers": None}
    release = replace(release, **sizes)
    return build_vision_transformer(weights, release, temperature=20.0, **more)


def of_dinotxt3() -> ImageTower:
    """Three blocks of DINOv3, whose positions are rotary, and two of dino.txt, whose are not."""
    sizes = {"dimensions": Dimensions(5, 16, 64), "heads": 2, "head_width": 8, "text_heads": 2}
    release = replace(releases()["dinotxt3_l16"], **sizes)
    with TemporaryDirectory() as folder:
        files = {part: Path(folder, f"{part}.safetensors") for part in ("image", "head")}
        for part, weights in small_models.dinotxt3().items():
            save_file(weights, files[part])
        return dinotxt.build_of_dinov3(release, files, "cpu").image


def of_dinov3() -> ImageTower:
    tower = of_dinotxt3()
    return replace(tower, blocks=tower.blocks[:3])


TOWERS = {
    "clip": lambda: ImageTower.of(build_tiny_clip()),
    "clip, patches of 32": lambda: ImageTower.of(build_tiny_clip(patch_size=32, head_width=32)),
    "dino": lambda: of_release(**AS_DINO),
    "registers": lambda: of_release(4, stretch=BICUBIC),
    "c_radio": lambda: of_release(4, stretch=BILINEAR, covers_square=True),
    "dinov3": of_dinov3,
    "dinotxt3": of_dinotxt3,
}


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (9, 2)], ids=str)
@pytest.mark.parametrize("name", TOWERS)
def test_tokens_are_those_of_the_encoder(name, grid):
    tower = TOWERS[name]()
    backbone = FrozenTower(describe(tower), range(len(tower.blocks)))
    backbone.load_tower(tower, "clip")
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, *(side * tower.patch_size for side in grid), generator=generator)
    encoder = ClipEncoder(tower)
    expected = encoder.tokens_after(pixels, range(1, len(tower.blocks) + 1))
    maps = backbone(pixels)
    assert len(maps) == len(expected)
    for found, tokens in zip(maps, expected.values()):
        assert found.shape[2:] == grid
        patches = encoder.patches(tokens)
        close = {"atol": 1e-5 * float(patches.abs().max()), "rtol": 0}
        torch.testing.assert_close(found.flatten(2).mT, patches, **close)


def test_a_finer_grid_sees_the_image_enlarged():
    tower = TOWERS["clip"]()
    backbone = FrozenTower(describe(tower), [3], enlarge=1.5)
    backbone.load_tower(tower, "clip")
    pixels = torch.randn(1, 3, 64, 80)
    larger = nn.functional.interpolate(pixels, (96, 112), mode="bilinear")
    plain = FrozenTower(describe(tower), [3])
    plain.load_tower(tower, "clip")
    torch.testing.assert_close(backbone(pixels)[0], plain(larger)[0])


def test_blocks_that_nobody_reads_are_not_built():
    assert len(FrozenTower(describe(TOWERS["registers"]()), [0, 1]).blocks) == 2


def test_another_activation_is_refused():
    tower = TOWERS["clip"]()
    tower.blocks[1].mlp.gelu = nn.Tanh()
    with pytest.raises(UserError, match=r"cannot be built \('Tanh'\)"):
        build_model({"type": "FrozenTower", "tower": describe(tower), "out_indices": [1]})


SETTINGS = {
    "config": "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py",
    "overrides": {"decode_head": {"channels": 32}},
    "pretrained": "clip",
    "decoder": "tokens",
    "optimizer": "AdamW",
}


def load_tower() -> ImageTower:
    return ImageTower.of(build_tiny_clip())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def train_frozen(pairs, folder, on_iteration=None, **more):
    settings = tiny_settings(**{**SETTINGS, **more})
    return train_tiny(pairs, folder, settings, tower=load_tower, on_iteration=on_iteration)


def test_only_the_decoder_learns_and_a_resumed_training_learns_the_same(pairs, tmp_path):
    whole = train_frozen(pairs, tmp_path / "whole")

    def interrupt(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_frozen(pairs, tmp_path / "resumed", on_iteration=interrupt)
    resumed = train_frozen(pairs, tmp_path / "resumed")
    weights, again = (read_checkpoint(path)["state_dict"] for path in (whole, resumed))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    fresh = FrozenTower(describe(load_tower()), range(4))
    fresh.load_tower(load_tower(), "clip")
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(weights[f"backbone.{name}"], tensor), name
    optimizer = read_checkpoint(whole)["optimizer"]
    learning = [name for name in weights if name.startswith("decode_head.")]
    assert len(optimizer["state"]) == len(learning)
    # The file holds all that it takes to label images of any size.
    segmenter = Segmenter.from_run(whole)
    for size in ((40, 48), (40, 300), (7, 3), (1, 1000)):
        assert segmenter(np.zeros((*size, 3), np.uint8)).shape == size


def test_a_photograph_of_many_patches_is_shrunk_whole_before_it_is_scaled(pairs, tmp_path):
    segmenter = Segmenter.from_run(train_frozen(pairs, tmp_path, iterations=1, most_patches=12))
    assert segmenter.network.limits.patches == [16, 12]
    image = draw_photograph(0, 40, 3000)
    small = Image.fromarray(image).resize((12 * 16, 16), Image.Resampling.BICUBIC)
    for scales in ([1.0], [1.0, 2.0]):
        found, expected = (segmenter.probabilities(each, scales) for each in (image, small))
        assert found.shape == (3, 40, 3000)
        larger = torch.nn.functional.interpolate(
            torch.from_numpy(expected)[None], (40, 3000), mode="bilinear"
        )
        assert (larger[0].argmax(0).numpy() == found.argmax(0)).mean() > 0.99


@pytest.mark.parametrize("decoder", ["tokens", "linear"])
def test_the_backbone_alone_predicts_in_16_bits(pairs, tmp_path, decoder):
    path = train_frozen(pairs, tmp_path, iterations=3, decoder=decoder)
    exact, rounded = (Segmenter.from_run(path, precision=each) for each in ("fp32", "bf16"))
    network, seen = rounded.network.model, []
    network.backbone.register_forward_hook(lambda *given: seen.extend(given[-1]))
    image = draw_photograph(1, 61, 90)
    found, expected = (each.logits(image) for each in (rounded, exact))
    assert {each.dtype for each in (*seen, *network.parameters())} == {torch.float32}
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert np.array_equal(Segmenter.from_run(path, precision="fp32").logits(image), expected)


def test_the_key_holds_the_weights_of_the_tower_and_nothing_of_features(pairs, tmp_path):
    stage = training_stage(pairs, [], **SETTINGS)

    def facts(seed: int, **features: object) -> dict:
        path = tmp_path / f"{seed}.pt"
        torch.save(build_tiny_clip(seed).state_dict(), path)
        given = {"precision": "fp32", "max_patches": 9, "position_fp16": False, **features}
        clip = FrozenClip(None, None, str(path), "cpu", **given, batches=Batches(1, 4, 8))
        return replace(stage, tower=clip).own_settings()["tower"]

    plain = facts(0)
    assert plain == facts(0, precision="bf16", max_patches=4, position_fp16=True)
    assert plain != facts(1) and plain.keys() == facts(1).keys()
    assert "tower" not in training_stage(pairs, []).own_settings()


def test_only_a_frozen_backbone_stays_as_it_was(pairs, tmp_path):
    for freeze in (False, True):
        path = tmp_path / f"{freeze}"
        torch.manual_seed(0)
        network = build_model(build_config(tiny_settings(), CLASS_NAMES, PALETTE, 0).model)
        torch.save(network.backbone.state_dict(), weights := tmp_path / "weights.pth")
        trained = train_tiny(pairs, path, tiny_settings(pretrained=str(weights), freeze=freeze))
        after = read_checkpoint(trained)["state_dict"]
        same = [
            torch.equal(after[f"backbone.{name}"], tensor)
            for name, tensor in network.backbone.state_dict().items()
        ]
        assert all(same) if freeze else not any(same[:1])


@pytest.mark.parametrize(("crop", "patch", "fitted"), [(256, 14, 252), (321, 16, 320), (9, 32, 32)])
def test_crops_of_a_data_set_hold_whole_patches(crop, patch, fitted):
    assert whole_patches(crop, patch, crop) == fitted
    with pytest.raises(UserError, match=rf"patches of {patch} pixels: give .*{patch}|give \d+"):
        whole_patches(crop, patch, crop + 1)
    assert whole_patches(crop, None, crop + 1) == crop and whole_patches(fitted, patch, 1) == fitted


@pytest.mark.parametrize(
    ("name", "decoder", "refused"),
    [
        ("vit_tiny_patch16_224", "linear", ""),
        ("vit_small_patch14_dinov2", "linear", ""),
        ("vit_small_patch14_dinov2", "tokens", ""),
        ("beit_base_patch16_224", "linear", "does not take images of 64×64 pixels"),
        (
            "resnet18",
            "linear",
            "is not a vision transformer, whose tokens segmenter.decoder=linear reads",
        ),
    ],
)
def test_vision_transformers_of_timm_take_images_of_any_size_or_are_refused(
    name, decoder, refused, pairs, tmp_path
):
    settings = tiny_settings(backbone=name, decoder=decoder, pretrained="published", overrides={})
    if refused:
        with pytest.raises(UserError, match=refused):
            train_tiny(pairs, tmp_path, replace(settings, crop_size=64))
    try:
        config = build_config(settings, CLASS_NAMES, PALETTE, 0)
        divisor = side_divisor(timm_maps(name).patch_size, decoder)
        assert config.model.data_preprocessor.test_cfg == {"size_divisor": divisor}
        network = MmsegNetwork(build_model(config.model))
        check_sizes(network.model, replace(settings, crop_size=4 * divisor))
    except UserError as error:
        assert refused and refused in str(error)
    else:
        assert not refused and network.min_side == divisor
        assert network(torch.zeros(1, 3, 33, 50)).shape == (1, 3, 33, 50)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained": "imagenet"}, "what this backbone can start from: give clip$"),
        ({"pretrained": "none"}, "give clip$"),
        ({"decoder": None}, "this backbone can .* imagenet, none, or the path"),
        ({"backbone": "vit_tiny_patch16_224"}, "give published, or the path of a weights file"),
        (
            {"backbone": "vit_tiny_patch16_224", "pretrained": "published", "enlarge": "2"},
            "enlarge",
        ),
        ({"decoder": None, "freeze": True, "pretrained": "none"}, "give imagenet, or"),
    ],
)
def test_each_network_says_what_it_starts_from(changes, words, pairs, tmp_path):
    with pytest.raises(UserError, match=words):
        train_tiny(pairs, tmp_path, tiny_settings(**{**SETTINGS, **changes}))
