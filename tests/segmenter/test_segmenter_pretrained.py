"""The choice of weights, what remains in configs, and how much of a file must fit."""

from urllib.parse import urlsplit

import pytest
import timm
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import get_external_models
from torchvision.models import get_model

from pipeline.errors import UserError
from pipeline.segmenter.mmseg import find_config, import_mmseg
from pipeline.segmenter.pretrained import check_pretrained, load_pretrained, strip_pretrained
from pipeline.segmenter.weight_layouts import Fit
from tests.segmenter.foreign_backbones import CONVNEXT, DILATED, build_network, load, saved, stirred
from tests.segmenter.tiny_training import tiny_settings
from tests.tiers import large_except


@pytest.mark.parametrize(
    "name, source",
    [
        (
            "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py",
            "open-mmlab://resnet50_v1c",
        ),
        (
            "deeplabv3plus/deeplabv3plus_r50b-d8_4xb2-80k_cityscapes-512x1024.py",
            "torchvision://resnet50",
        ),
        (
            "mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py",
            "mmcls://mobilenet_v2",
        ),
        (
            "icnet/icnet_r50-d8-in1k-pre_4xb2-80k_cityscapes-832x832.py",
            "open-mmlab://resnet50_v1c",
        ),
        ("icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py", None),
        ("vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py", "pretrain/"),
        ("pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py", "https://HOST/"),
        ("segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", "https://HOST/"),
    ],
)
def test_shipped_configs_are_stripped(name, source):
    import_mmseg()
    model = Config.fromfile(find_config(name)).model
    stripped = strip_pretrained(model)
    if source and "HOST" in source:  # each family has its own, and its catalogues name it
        source = source.replace("HOST", urlsplit(get_external_models()["resnet50_v1c"]).hostname)
    assert stripped == source or stripped.startswith(source)
    for trace in ("://", "Pretrained", "pretrain/"):
        assert trace not in str(model)


def test_strip_reaches_every_corner():
    pretrained = {"type": "Pretrained", "checkpoint": "https://a/b.pth", "prefix": "backbone."}
    kaiming = {"type": "Kaiming", "layer": "Conv2d"}
    model = ConfigDict(
        backbone={
            "type": "X",
            "init_cfg": pretrained,
            "inner": {"init_cfg": [kaiming, pretrained]},
        },
        neck={"init_cfg": {"type": "Kaiming", "override": {**pretrained, "name": "a"}}},
        decode_head=[{"pretrained": "https://a/head.pth"}, {"init_cfg": (pretrained,)}],
    )
    assert strip_pretrained(model) == "https://a/b.pth"
    assert model == ConfigDict(
        backbone={"type": "X", "init_cfg": None, "inner": {"init_cfg": [kaiming]}},
        neck={"init_cfg": {"type": "Kaiming", "override": None}},
        decode_head=[{"pretrained": None}, {"init_cfg": None}],
    )


@pytest.mark.parametrize("given", [{}, {"pretrained": True}, {"checkpoint_path": "a.pth"}])
def test_timm_is_told_not_to_download(given):
    model = ConfigDict(backbone={"type": "mmseg.TIMMBackbone", "model_name": "resnet18", **given})
    assert strip_pretrained(model) == given.get("checkpoint_path")
    assert model.backbone.pretrained is False and model.backbone.checkpoint_path == ""


def test_source_is_the_backbones_own():
    model = ConfigDict(pretrained="whole", backbone={"pretrained": "own"}, head={"pretrained": "h"})
    assert strip_pretrained(model) == "own"
    assert strip_pretrained(ConfigDict(pretrained="whole", backbone={})) == "whole"
    assert strip_pretrained(ConfigDict(backbone={}, head={"pretrained": "h"})) is None


def test_known_choices(tmp_path):
    for choice in (None, "none", "imagenet", str(saved(tmp_path, {}))):
        check_pretrained(tiny_settings(pretrained=choice))


@pytest.mark.parametrize("choice", ["", "ImageNet", "imagnet", "coco", "/nowhere/weights.pth", "/"])
def test_unknown_choices(choice):
    with pytest.raises(UserError, match="give imagenet, none, or the path") as caught:
        check_pretrained(tiny_settings(pretrained=choice))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", [None, "none"])
def test_nothing_is_loaded(choice):
    network, model = build_network(type="ResNet", depth=18)
    before = network.backbone.conv1.weight.clone()
    assert load_pretrained(network.backbone, choice, model, "torchvision://resnet18") is None
    assert torch.equal(network.backbone.conv1.weight, before)


def without(weights, count):
    """Leaves out some tensors, of which the last batch norms' are the least needed."""
    counted = [name for name in weights if "fc" not in name and "tracked" not in name]
    return {name: value for name, value in weights.items() if name not in counted[-count:]}


def test_95_percent_are_enough(tmp_path):
    weights = without(stirred(get_model("resnet18")).state_dict(), 5)
    weights["layer9.weight"] = torch.zeros(2)
    path = saved(tmp_path, weights)
    torch.manual_seed(0)
    backbone, report = load(path, type="ResNet", depth=18)
    assert (report.matched, report.total) == (95, 100)
    assert report.unmatched == (
        "layer4.1.conv2.weight",
        *(f"layer4.1.bn2.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
    )
    assert report.unused == ("layer9.weight",)
    assert str(report) == (
        f"torchvision ResNet from {path}: 95 of 100 tensors matched, 1 of the file unused"
    )
    # mmsegmentation starts the last batch norm of a block at 0.
    assert (backbone.layer4[1].bn2.weight == 0).all()
    assert torch.equal(backbone.layer4[1].conv1.weight, weights["layer4.1.conv1.weight"])


def test_94_percent_are_not_enough(tmp_path):
    path = saved(tmp_path, without(get_model("resnet18").state_dict(), 6))
    network, model = build_network(type="ResNet", depth=18)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(network.backbone, str(path), model, None)
    assert str(caught.value) == (
        f"segmenter.pretrained={path} fits 94 of the 100 tensors of the backbone (needed are 95 %"
        " and the first layer), but not layer4.1.bn1.running_var, layer4.1.conv2.weight,"
        " layer4.1.bn2.weight: give segmenter.pretrained=PATH, a file that fits, or"
        " segmenter.pretrained=none"
    )
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


STEMS = ("ResNet", "ResNetV1c")


@pytest.mark.parametrize("ours, theirs", large_except([STEMS], [STEMS, STEMS[::-1]]))
def test_another_stem_is_refused(ours, theirs, tmp_path):
    """Of a ResNet-101 it is less than 5 %, but nothing behind it would know what it sees."""
    weights = build_network(type=theirs, depth=101)[0].backbone.state_dict()
    with pytest.raises(UserError, match=r"of the 5[0-9]{2} tensors .* but not (conv1|stem\.0)\."):
        load(saved(tmp_path, weights), type=ours, depth=101)


def test_other_architecture_is_refused(tmp_path):
    weights = timm.create_model("convnext_femto").state_dict()
    for backbone in ({"type": "ResNet", "depth": 18}, CONVNEXT):
        with pytest.raises(UserError, match=r"fits \d+ of the \d+ tensors") as caught:
            load(saved(tmp_path, weights), **backbone)
        assert "\n" not in str(caught.value)


ICNET = {
    "type": "ICNet",
    "layer_channels": (128, 512),
    "backbone_cfg": {"type": "ResNetV1c", "depth": 18, **DILATED},
}


def test_network_inside_a_backbone(tmp_path):
    """ImageNet's weights are for ICNet's inner network; what is around starts at random."""
    inner = stirred(build_network(type="ResNetV1c", depth=18)[0].backbone).state_dict()
    network, model = build_network(**ICNET)
    report = load_pretrained(network.backbone, str(saved(tmp_path, inner)), model, None)
    assert report.matched == report.total == len([n for n in inner if "tracked" not in n])
    network.init_weights()
    assert torch.equal(
        network.backbone.backbone.layer1[0].conv1.weight, inner["layer1.0.conv1.weight"]
    )
    # The whole of another ICNet goes into the whole.
    whole = stirred(build_network(**ICNET)[0]).state_dict()
    network, model = build_network(**ICNET)
    report = load_pretrained(network.backbone, str(saved(tmp_path, whole)), model, None)
    assert report.seen_masks and report.matched == report.total
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, whole[f"backbone.{name}"]), name


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "ResNet", "depth": 18},
        {"type": "SwinTransformer", "embed_dims": 12, "num_heads": (1, 2, 3, 6)},
        {"type": "MixVisionTransformer", "embed_dims": 8, "num_heads": [1, 2, 4, 8]},
        CONVNEXT,
    ],
)
def test_weights_outlive_the_start_of_a_training(backbone, tmp_path):
    """mmengine's runner initialises the network once more."""
    weights = stirred(build_network(**backbone)[0].backbone).state_dict()
    network, model = build_network(**backbone)
    load_pretrained(network.backbone, str(saved(tmp_path, weights)), model, None)
    head = network.decode_head.conv_seg.weight.clone()
    network.init_weights()
    assert not torch.equal(network.decode_head.conv_seg.weight, head)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_loading_keeps_the_console_clear(tmp_path, capfd, caplog):
    weights = timm.create_model("convnext_atto").state_dict()
    load(saved(tmp_path, weights), **CONVNEXT)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == "" and not caplog.records


def test_report_of_weights_that_have_seen_masks():
    report = Fit("a.pth", "torchvision ResNet", 520, 520, (), (), True)
    assert str(report) == (
        "torchvision ResNet from a.pth: 520 of 520 tensors matched (these weights have seen masks)"
    )


def test_weights_that_are_not_finite_name_their_file(tmp_path):
    weights = get_model("resnet18").state_dict()
    weights["conv1.weight"][0] = float("inf")
    weights["fc.bias"][0] = float("nan")  # which no backbone has
    path = saved(tmp_path, weights)
    with pytest.raises(UserError, match=rf"{path} holds weights that are not finite \(conv1.wei"):
        load(path, type="ResNet", depth=18)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(kind, tmp_path):
    weights = {k: v.to(kind) for k, v in get_model("resnet18").state_dict().items()}
    with pytest.raises(UserError, match=r"\.weight as .* not quantise"):
        load(saved(tmp_path, weights), type="ResNet", depth=18)
