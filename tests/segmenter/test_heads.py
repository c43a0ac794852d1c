"""The decode heads against plain torch; DeepLab-V2 as a whole, written from the paper alone."""

import pytest
import torch
import torch.nn.functional as F

from tests.segmenter.test_presets import network_of

BLOCKS = (3, 4, 23, 3)  # of ResNet-101
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
RATES = (6, 12, 18, 24)


class PlainDeepLabV2:
    """Reads its weights from a dictionary; knows nothing of mmsegmentation."""

    def __init__(self, weights):
        self.weights = weights

    def norm(self, x, name):
        w = self.weights
        scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5).sqrt()
        shift = w[f"{name}.bias"] - w[f"{name}.running_mean"] * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    def conv(self, x, name, **how):
        return F.conv2d(x, self.weights[f"{name}.weight"], **how)

    def block(self, x, name, stride, rate):
        out = F.relu(self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1"))
        out = self.conv(out, f"{name}.conv2", stride=stride, padding=rate, dilation=rate)
        out = F.relu(self.norm(out, f"{name}.bn2"))
        out = self.norm(self.conv(out, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(
                self.conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1"
            )
        return F.relu(out + x)

    def __call__(self, image):
        x = F.relu(
            self.norm(self.conv(image, "backbone.conv1", stride=2, padding=3), "backbone.bn1")
        )
        x = F.max_pool2d(x, 3, 2, 1)
        for number, (blocks, stride, rate) in enumerate(zip(BLOCKS, STRIDES, DILATIONS), 1):
            for index in range(blocks):
                x = self.block(
                    x, f"backbone.layer{number}.{index}", stride if index == 0 else 1, rate
                )
        logits = 0
        for index, rate in enumerate(RATES):
            branch = f"decode_head.branches.{index}"
            logits = logits + F.conv2d(
                x,
                self.weights[f"{branch}.weight"],
                self.weights[f"{branch}.bias"],
                padding=rate,
                dilation=rate,
            )
        return logits


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
        plain = PlainDeepLabV2(model.state_dict())(image)
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
def test_the_all_mlp_head_equals_a_plain_one(preset):
    _, model = network_of(preset, "segmenter.backbone=resnet18")
    head = model.decode_head.eval()
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2)]
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 64 << i, *size, generator=generator) for i, size in enumerate(sizes)]
    weights = head.state_dict()
    for name, value in weights.items():
        if name.endswith("running_mean"):
            value.normal_(generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)

    def layer(x, name):
        norm = [weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var")]
        affine = weights[f"{name}.bn.weight"], weights[f"{name}.bn.bias"]
        return F.relu(F.batch_norm(F.conv2d(x, weights[f"{name}.conv.weight"]), *norm, *affine))

    with torch.inference_mode():
        projected = [layer(x, f"projections.{i}") for i, x in enumerate(maps)]
        upsampled = [F.interpolate(x, sizes[0], mode="bilinear") for x in projected]
        plain = head.conv_seg(layer(torch.cat(upsampled, 1), "fusion"))
        ours = head(maps)
    assert ours.shape == (2, 3, 12, 16)
    assert plain.std() > 1e-3
    assert (ours - plain).abs().max() < 1e-5


def test_the_all_mlp_head_computes_what_mmsegmentations_does():
    """The licence of that head is why ours exists; both follow equation 4 of the paper."""
    _, ours = network_of("timm_mlp", "segmenter.backbone=resnet18")
    name = "segmenter.overrides.decode_head.type=SegformerHead"
    _, theirs = network_of("timm_mlp", "segmenter.backbone=resnet18", name)
    names = {"projections": "convs", "fusion": "fusion_conv"}
    weights = {
        ".".join([names.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in ours.decode_head.state_dict().items()
    }
    theirs.decode_head.load_state_dict(weights)
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 64 << i, 16 >> i, 8 >> i, generator=generator) for i in range(4)]
    with torch.inference_mode():
        ours, theirs = ours.decode_head.eval()(maps), theirs.decode_head.eval()(maps)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs)
