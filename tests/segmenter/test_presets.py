"""Every preset of configs/segmenter builds a network that learns."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pipeline.clip.image_tower import ImageTower
from pipeline.configuration.settings import check
from pipeline.errors import UserError
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.segmenter.train import freeze
from pipeline.stages.config import compose
from tests.segmenter.tiny_training import CLASS_NAMES, PALETTE
from tests.tiers import large_except
from tests.tiny_clip import build_tiny_clip
from tests.typed import to_settings

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(path.stem for path in (CONFIGS / "segmenter").glob("*.yaml"))
NEEDS = {
    "timm": ["segmenter.backbone=convnext_atto"],
    "timm_mlp": ["segmenter.backbone=resnet18"],
    "mmsegmentation": ["segmenter.config=fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"],
    # Everything is as it will be trained, but with fewer of the same blocks.
    "segformer_b5": ["+segmenter.overrides.backbone.num_layers=[1,1,2,1]"],
    "deeplabv2_r101": ["+segmenter.overrides.backbone.depth=50"],
    "deeplabv2_r101_clip_es": ["+segmenter.overrides.backbone.depth=50"],
    "deeplabv3_r101": ["+segmenter.overrides.backbone.depth=50"],
    "deeplabv3plus_r101": ["+segmenter.overrides.backbone.depth=50"],
}


def settings_of(preset, *overrides):
    config = compose([f"segmenter={preset}", *overrides])
    settings = to_settings(
        SegmenterSettings, OmegaConf.to_container(config.segmenter, resolve=True)
    )
    check(settings, "segmenter")
    return settings


def tower_of(settings):
    return ImageTower.of(build_tiny_clip()) if settings.decoder else None


def network_of(preset, *overrides, class_names=CLASS_NAMES, palette=PALETTE):
    settings = settings_of(preset, *overrides)
    config = build_config(settings, class_names, palette, 0, tower=tower_of(settings))
    torch.manual_seed(0)
    return config, build_model(config.model)


def test_presets_that_are_promised():
    promised = "demo light deeplabv2_r101 deeplabv2_r101_clip_es deeplabv3_r101 deeplabv3plus_r50"
    promised += " deeplabv3plus_r101 deeplabv3plus_mobilenet segformer_b0 segformer_b5"
    promised += " frozen_clip frozen_vit upernet_swin_t timm timm_mlp mmsegmentation"
    assert {*promised.split()} == {*PRESETS} - {"default"}


@pytest.mark.parametrize(
    "preset",
    large_except(("demo", "frozen_clip", "timm_mlp"), (p for p in PRESETS if p != "default")),
)
def test_preset_learns(preset):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    config, model = network_of(preset, *NEEDS.get(preset, []))
    model.init_weights()
    if config.settings.decoder:
        freeze(model.backbone)
    model.train()
    labels = torch.randint(0, 3, (2, 1, 64, 64))
    labels[:, :, :5] = 255
    batch = {
        "inputs": [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)],
        "data_samples": [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels],
    }
    batch = model.data_preprocessor(batch, True)
    losses = model(**batch, mode="loss")
    total = sum(value for name, value in losses.items() if "loss" in name)
    assert torch.isfinite(total) and total > 0
    total.backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, parameter in learning.items() if parameter.grad is None]
    # The norms of feature maps that no head reads are the only ones.
    assert len(without) <= 0.05 * len(learning), without
    assert all(torch.isfinite(p.grad).all() for p in learning.values() if p.grad is not None)
    assert any(p.grad.abs().sum() > 0 for p in list(learning.values())[:3] if p.grad is not None)
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.lr > 0 and optimizer.type


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "default"])
def test_a_network_can_be_built_twice(preset):
    settings = settings_of(preset, *NEEDS.get(preset, []))
    before = deepcopy(settings)
    given, tower = (settings, CLASS_NAMES, PALETTE, 0), tower_of(settings)
    first, second = (build_config(*given, tower=tower).model for _ in range(2))
    assert first == second and settings == before


def test_one_word_swaps_the_network_and_nothing_else():
    demo, segformer = settings_of("demo"), settings_of("segformer_b0")
    for key in ("iterations", "batch_size", "crop_size", "scale_range", "test"):
        assert getattr(demo, key) == getattr(segformer, key)
    voc = settings_of("segformer_b0", "dataset=voc2012", "dataset.root=/")
    assert (voc.iterations, voc.batch_size, voc.crop_size) == (20000, 10, 321)
    assert voc.pretrained == "imagenet" and segformer.pretrained == "none"


@pytest.mark.parametrize("network", ["deeplabv2_r101", "deeplabv3plus_r50", "segformer_b0"])
@pytest.mark.parametrize("preset", ["clip_es_voc2012", "clip_es_coco2014", "cls_seg_voc2012"])
def test_a_preset_leaves_a_network_what_belongs_to_it(preset, network):
    alone = settings_of(network)
    beside = settings_of(network, f"experiment={preset}_segmenter", "dataset.root=/")
    of_the_data_set = ("pretrained", "iterations", "batch_size", "crop_size", "scale_range", "test")
    of_the_data_set += ("checkpoint_interval", "validation_interval")
    assert beside == replace(alone, **{key: getattr(beside, key) for key in of_the_data_set})
    own = compose([f"experiment={preset}_segmenter"]).segmenter
    assert (own.name, own.learning_rate) == ("deeplabv2_r101", 2.0e-4)  # CLIP-ES's


def test_weights_that_are_trained_already_get_the_smaller_rate():
    scratch = settings_of("segformer_b0")
    tuned = replace(scratch, pretrained="imagenet")
    rates = [
        build_config(settings, CLASS_NAMES, PALETTE, 0).optim_wrapper.optimizer.lr
        for settings in (scratch, tuned)
    ]
    assert rates == [1e-3, 6e-5]


def test_deeplab_v2_as_the_convention_has_it():
    config, model = network_of("deeplabv2_r101", "dataset=voc2012", "dataset.root=/")
    from mmengine.optim import build_optim_wrapper

    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    groups = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            groups[names[id(parameter)]] = group["lr"], group["weight_decay"], group["momentum"]
    near = pytest.approx
    assert groups["backbone.conv1.weight"] == near((2.5e-4, 5e-4, 0.9))
    assert groups["decode_head.branches.3.weight"] == near((2.5e-3, 5e-4, 0.9))
    assert groups["decode_head.branches.3.bias"] == near((5e-3, 0, 0.9))
    assert not model.with_auxiliary_head
    model.train()
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 104 and not any(m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    head = model.decode_head.branches
    assert [branch.dilation for branch in head] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    assert [branch.weight.shape[0] for branch in head] == [3] * 4


def test_timm_backbone_brings_its_channels_and_its_normalisation():
    config, model = network_of("timm", "segmenter.backbone=resnet18")
    assert config.model.decode_head.in_channels == [64, 128, 256, 512]
    assert config.model.auxiliary_head.in_channels == 256
    with torch.inference_mode():
        maps = model.backbone(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512]
    halves = build_config(
        settings_of("timm", "segmenter.backbone=tf_mobilenetv3_small_100"), CLASS_NAMES, PALETTE, 0
    )
    assert halves.model.data_preprocessor.mean == pytest.approx([127.5] * 3)


def test_unknown_timm_backbone_gives_the_nearest():
    with pytest.raises(UserError, match="convnext_tiny"):
        network_of("timm", "segmenter.backbone=convnext_tinny")


def test_config_of_mmsegmentation_keeps_its_own_optimiser():
    config, _ = network_of(
        "mmsegmentation",
        "segmenter.config=segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    )
    assert config.optim_wrapper.optimizer == {
        "type": "AdamW",
        "lr": 6e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "fused": True,  # on a CPU
    }
    keys = config.optim_wrapper.paramwise_cfg.custom_keys
    assert keys["pos_block"] == {"decay_mult": 0.0} and keys["head"] == {"lr_mult": 10.0}
