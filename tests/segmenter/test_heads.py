"""The decode heads against plain torch, and against those of mmsegmentation."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import get_model

from tests.segmenter.test_presets import network_of

RATES = (6, 12, 18, 24)


def plain_deeplab_v2(weights, image):
    """Computes logits by torchvision's ResNet-101 and plain convolutions."""
    resnet = get_model("resnet101", replace_stride_with_dilation=[False, True, True])
    for layer, rate in ((resnet.layer3, 2), (resnet.layer4, 4)):
        layer[0].conv2.dilation = layer[0].conv2.padding = (rate, rate)  # as in the other blocks
    features = torch.nn.Sequential(OrderedDict([*resnet.named_children()][:-2]))  # no classifier
    start = "backbone."
    of_features = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
    features.load_state_dict(of_features)
    x = features.eval()(image)
    names = [f"decode_head.branches.{index}" for index in range(len(RATES))]
    branches = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names]
    return sum(F.conv2d(x, *b, padding=r, dilation=r) for b, r in zip(branches, RATES))


@pytest.mark.parametrize("size", [(65, 65), pytest.param((81, 129), marks=pytest.mark.large)])
def test_deeplab_v2_equals_a_plain_one(size):
    _, model = network_of("deeplabv2_r101")
    model.init_weights()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias"):
            value.normal_(0, 0.1, generator=generator)
        elif "bn3.weight" in name:
            value.uniform_(0.1, 0.3, generator=generator)  # keeps 33 residual blocks from growing
    image = torch.randn(2, 3, *size, generator=generator)
    model.eval()
    with torch.inference_mode():
        ours = model.decode_head(model.backbone(image))
        plain = plain_deeplab_v2(model.state_dict(), image)
    assert ours.shape == plain.shape == (2, 3, size[0] // 8 + 1, size[1] // 8 + 1)
    assert plain.std() > 0.05
    assert (ours - plain).abs().max() < 1e-5


def test_a_new_head_starts_from_small_weights():
    _, model = network_of("deeplabv2_r101")
    model.init_weights()
    branches = model.decode_head.branches
    assert all(abs(branch.weight.std().item() - 0.01) < 5e-4 for branch in branches)
    assert all((branch.bias == 0).all() for branch in branches)
    assert not hasattr(model.decode_head, "conv_seg")


@pytest.mark.parametrize("preset", ["timm_mlp", "light"])
def test_the_all_mlp_head_computes_what_mmsegmentations_does(preset):
    """The licence of that head is why ours exists; both follow equation 4 of the paper."""
    _, ours = network_of(preset, "segmenter.backbone=resnet18")
    name = "segmenter.overrides.decode_head.type=SegformerHead"
    _, theirs = network_of(preset, "segmenter.backbone=resnet18", name)
    generator = torch.Generator().manual_seed(1)
    for name, value in ours.decode_head.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
    names = {"projections": "convs", "fusion": "fusion_conv"}
    weights = {
        ".".join([names.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in ours.decode_head.state_dict().items()
    }
    theirs.decode_head.load_state_dict(weights)
    maps = [torch.randn(2, 64 << i, 16 >> i, 8 >> i, generator=generator) for i in range(4)]
    with torch.inference_mode():
        ours, theirs = ours.decode_head.eval()(maps), theirs.decode_head.eval()(maps)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs)
