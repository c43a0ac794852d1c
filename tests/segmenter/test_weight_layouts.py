"""Every layout is loaded from a file of its authors' own network, whose features must be ours."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import layer_norm
from torchvision.models import get_model, segmentation

from pipeline.errors import UserError
from tests.segmenter.foreign_backbones import (
    CONVNEXT,
    DILATED,
    assert_same_features,
    build_network,
    image,
    load,
    saved,
    stirred,
)
from tests.tiers import large_except


@torch.no_grad()
def torchvision_features(resnet):
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image()))))
    maps = []
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = layer(x)
        maps.append(x)
    return maps


@torch.no_grad()
def timm_features(network, side=64):
    return network.forward_intermediates(image(side), intermediates_only=True)[-4:]


def assert_taken_over(backbone, weights):
    """Every tensor of the backbone is that of the same name, bit by bit."""
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    "depth, dilated", large_except([(50, True)], [(18, False), (50, False), (50, True)])
)
def test_torchvision_resnet(depth, dilated, tmp_path):
    replaced = [False, True, True] if dilated else None
    network = stirred(get_model(f"resnet{depth}", replace_stride_with_dilation=replaced))
    path = saved(tmp_path, network.state_dict())
    backbone, report = load(path, type="ResNet", depth=depth, **(DILATED if dilated else {}))
    assert report.layout == "torchvision ResNet"
    assert report.matched == report.total == {18: 100, 50: 265}[depth]
    assert (report.unmatched, report.unused, report.seen_masks) == ((), (), False)
    assert_taken_over(backbone, network.state_dict())
    assert_same_features(backbone, torchvision_features(network))


def test_torchvision_segmentation_network(tmp_path):
    network = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    weights = stirred(network).state_dict()
    backbone, report = load(saved(tmp_path, weights), type="ResNet", depth=50, **DILATED)
    assert report.layout == "torchvision segmentation network"
    assert report.matched == report.total == 265
    assert report.unused == () and report.seen_masks
    maps = network.backbone(image())
    assert_same_features(backbone, torchvision_features(network.backbone))
    torch.testing.assert_close(backbone(image())[-1], maps["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, kind, depth",
    large_except(
        [("resnet50d", "ResNetV1d", 50)],
        [
            ("resnet18", "ResNet", 18),
            ("resnet50c", "ResNetV1c", 50),
            ("resnet50d", "ResNetV1d", 50),
        ],
    ),
)
def test_timm_resnet(name, kind, depth, tmp_path):
    network = stirred(timm.create_model(name))
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    backbone, report = load(tmp_path / "timm.safetensors", type=kind, depth=depth)
    assert report.matched == report.total
    assert report.unused == () and not report.seen_masks
    stem = {"conv1.": "stem.", "bn1.": "stem.7."} if kind != "ResNet" else {}
    renamed = {
        re.sub(r"^(conv1|bn1)\.", lambda m: stem.get(m[0], m[0]), name): value
        for name, value in network.state_dict().items()
    }
    assert_taken_over(backbone, renamed)
    assert_same_features(backbone, timm_features(network))


def test_timm_network_in_its_form_for_feature_maps(tmp_path):
    network = stirred(timm.create_model("convnext_atto"))
    backbone, report = load(saved(tmp_path, network.state_dict()), **CONVNEXT)
    assert report.layout == "timm"
    assert (report.matched, report.total, report.unused) == (124, 124, ())
    assert_same_features(backbone, timm_features(network))


def test_timm_converts_what_its_authors_named_otherwise(tmp_path):
    """ConvNeXt as Facebook published it, whose names and shapes timm knows."""
    network = stirred(timm.create_model("convnext_atto"))
    official = {}
    for name, value in network.state_dict().items():
        for pattern, replacement in (
            (r"stem\.(\d)", r"downsample_layers.0.\1"),
            (r"stages\.(\d)\.downsample", r"downsample_layers.\1"),
            (r"stages\.(\d)\.blocks", r"stages.\1"),
            (r"conv_dw", "dwconv"),
            (r"mlp\.fc(\d)", r"pwconv\1"),
            (r"head\.norm", "norm"),
            (r"head\.fc", "head"),
        ):
            name = re.sub(pattern, replacement, name)
        official[name] = value.flatten(1) if "pwconv" in name and value.ndim > 1 else value
    path = saved(tmp_path, {"model": official})
    backbone, report = load(path, **CONVNEXT)
    assert (report.matched, report.total) == (124, 124)
    # What timm leaves out, it leaves out of its form for feature maps.
    assert report.unused == ("norm.weight", "norm.bias")
    assert_same_features(backbone, timm_features(network))


VIT = {
    "type": "TIMMBackbone",
    "model_name": "vit_tiny_patch16_224",
    "pretrained": False,
    "depth": 4,
    "img_size": 64,
    "out_indices": (1, 3),
}


def test_timm_resamples_positions(tmp_path):
    weights = timm.create_model("vit_tiny_patch16_224", depth=4).state_dict()
    _, report = load(saved(tmp_path, weights), **VIT)
    assert (report.matched, report.total) == (52, 52)
    assert report.unused == ("norm.weight", "norm.bias")


def test_random_tensors_of_timm_do_not_count(tmp_path):
    """timm itself would go on with them."""
    weights = timm.create_model("vit_tiny_patch16_224", depth=4).state_dict()
    for name in list(weights):
        if name.startswith("blocks.2.mlp"):
            del weights[name]
    with pytest.raises(UserError, match=r"48 of the 52 .*mlp\.fc1\.weight"):
        load(saved(tmp_path, weights), **VIT)


@pytest.mark.parametrize("layout", ["Swin Transformer's own", "timm Swin Transformer"])
def test_swin_transformer(layout, tmp_path):
    settings = {"window_size": 2, "depths": (2, 2, 6, 2), "num_heads": (1, 2, 4, 8)}
    network = stirred(
        timm.create_model("swin_tiny_patch4_window7_224", img_size=128, embed_dim=16, **settings)
    )
    official = {}
    for name, value in network.state_dict().items():
        # In timm a stage begins with its reduction; officially one ends with it.
        if not layout.startswith("timm"):
            name = re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name)
            name = name.replace("head.fc", "head")
        official[name] = value
    official["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4).long()
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(256, 4, 4)
    path = saved(tmp_path, {"model": official})
    backbone, report = load(
        path, type="SwinTransformer", embed_dims=16, window_size=2, num_heads=(1, 2, 4, 8)
    )
    assert report.layout == layout
    assert report.unused == ("norm.weight", "norm.bias")
    # mmsegmentation normalises each map, which the classifier does not.
    assert all(re.match(r"norm\d", name) for name in report.unmatched)
    assert (report.matched, report.total) == (169, 177)
    maps = [x.permute(0, 2, 3, 1) for x in timm_features(network, side=128)]
    normalised = [layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2) for x in maps]
    assert_same_features(backbone, normalised, side=128)


def test_official_segformer(tmp_path):
    """PVT v2 of timm is the same network with other names."""
    network = stirred(
        timm.create_model(
            "pvt_v2_b0", embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8), mlp_ratios=(4,) * 4
        )
    )
    for part in network.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-6  # as everywhere in mmsegmentation's
    official = {}
    for name, value in network.state_dict().items():
        one_more = lambda text: lambda m: text.format(int(m[1]) + 1)  # noqa: E731
        name = name.replace("patch_embed.", "patch_embed1.").replace("dwconv", "dwconv.dwconv")
        name = re.sub(r"stages\.(\d)\.downsample", one_more("patch_embed{}"), name)
        name = re.sub(r"stages\.(\d)\.blocks", one_more("block{}"), name)
        official[re.sub(r"stages\.(\d)\.norm", one_more("norm{}"), name)] = value
    backbone, report = load(
        saved(tmp_path, official),
        type="MixVisionTransformer",
        embed_dims=16,
        num_layers=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
    )
    assert report.layout == "SegFormer's own"
    assert (report.unmatched, report.unused) == ((), ())
    assert_same_features(backbone, timm_features(network))


@pytest.mark.parametrize(
    ("prefix", "wrapped"),
    large_except(
        [("module.backbone.", True)],
        [
            ("", False),
            ("backbone.", True),
            ("module.", False),
            ("module.backbone.", True),
            ("model.", False),
        ],
    ),
)
def test_prefixes(prefix, wrapped, tmp_path):
    weights = stirred(get_model("resnet18")).state_dict()
    named = {prefix + name: value for name, value in weights.items()}
    path = saved(tmp_path, {"state_dict": named, "meta": {"epoch": 3}} if wrapped else named)
    backbone, report = load(path, type="ResNet", depth=18)
    assert report.matched == report.total and report.unused == ()
    assert not report.seen_masks
    assert_taken_over(backbone, weights)


def test_network_of_mmsegmentation(tmp_path):
    network, _ = build_network(type="ResNetV1c", depth=18)
    path = saved(tmp_path, {"state_dict": stirred(network).state_dict()})
    backbone, report = load(path, type="ResNetV1c", depth=18)
    assert report.layout == "mmsegmentation network"
    assert report.seen_masks and report.unused == ()
    assert_taken_over(backbone, network.backbone.state_dict())
