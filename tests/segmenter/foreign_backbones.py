"""Backbones of mmsegmentation to load weights into, and networks of others to take them from."""

import torch

from pipeline.segmenter.mmseg import build_model
from pipeline.segmenter.pretrained import load_pretrained

HEAD = {
    "type": "FCNHead",
    "in_channels": 8,
    "channels": 8,
    "num_classes": 2,
    "norm_cfg": {"type": "BN"},
    "loss_decode": {"type": "CrossEntropyLoss"},
}
DILATED = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}
CONVNEXT = {"type": "TIMMBackbone", "model_name": "convnext_atto", "pretrained": False}


def build_network(**backbone):
    """Returns a network with this backbone, in evaluation mode, and its config."""
    model = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": HEAD}
    return build_model(model).eval(), model


def load(choice, source=None, **backbone):
    """Builds a backbone, fills it, and returns it with the report."""
    network, model = build_network(**backbone)
    return network.backbone, load_pretrained(network.backbone, str(choice), model, source)


def stirred(network):
    """Gives a network biases, statistics and scales that differ from those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim == 1:
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
    network.eval()  # which mmsegmentation's ResNet answers with None
    return network


def saved(folder, weights, name="weights.pth"):
    torch.save(weights, folder / name)
    return folder / name


def image(side=64):
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_features(backbone, expected, side=64):
    """The backbone's feature maps of :func:`image` are these."""
    for ours, theirs in zip(backbone(image(side)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
