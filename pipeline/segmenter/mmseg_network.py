"""The network of a training, with the pre- and postprocessing of mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional

from pipeline.clip.device import is_cpu
from pipeline.errors import UserError
from pipeline.files.weight_files import Uninitialised, check_finite
from pipeline.segmenter.architecture import MISFITS, licence_notes, smallest_side
from pipeline.segmenter.checkpoints import best_checkpoint, last_checkpoint, read_checkpoint
from pipeline.segmenter.limits import Limits
from pipeline.segmenter.mmseg import build_model, import_mmseg
from pipeline.segmenter.onnx_network import Names, Palette, check_classes, check_crf, resize_scores
from pipeline.segmenter.openmmlab import swaps_channels
from pipeline.segmenter.pretrained import strip_pretrained
from pipeline.segmenter.settings import MAX_SIZE_DIVISOR

_CHOICES = {"last": last_checkpoint, "best": best_checkpoint}


class MmsegNetwork(nn.Module):
    """A segmentor of mmsegmentation with its pre- and postprocessing."""

    licence_notes: Sequence[str] = ()  # of :func:`~pipeline.segmenter.architecture.licence_notes`

    def __init__(self, model: nn.Module, device: str = "cpu") -> None:
        """Puts the segmentor into evaluation mode, on a device."""
        super().__init__()
        self.model = model.to(device).eval()
        self.takes_batches = not is_cpu(device)  # where the last digits would differ
        self.align_corners = model.align_corners
        before = model.data_preprocessor
        self.swaps_channels = not swaps_channels(before)  # the network expects BGR
        self.divisor = (before.test_cfg or {}).get("size_divisor") or 1
        self.limits = Limits.of(model.test_cfg.get("limits") or {})
        self.crf = check_crf(model.test_cfg.get("crf"))
        self.padding = float(before.pad_val)
        self.min_side = smallest_side(model, self.divisor)
        zeros, ones = torch.zeros(3, 1, 1, device=device), torch.ones(3, 1, 1, device=device)
        self.register_buffer("mean", getattr(before, "mean", zeros).clone())
        self.register_buffer("std", getattr(before, "std", ones).clone())

    def compute_backbone_in(self, dtype: torch.dtype) -> None:
        """Computes the backbone in mixed precision, unless that is float32; the head never is."""
        if dtype != torch.float32:
            self.model.backbone = _MixedPrecision(self.model.backbone, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_network, (), self.__dict__

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits, N×(n+1)×H×W float32, of N×3×H×W uint8 or float32, RGB in [0, 255]."""
        images = images.to(self.mean)
        pixels = ((images.flip(1) if self.swaps_channels else images) - self.mean) / self.std
        height, width = images.shape[2:]
        below, right = -height % self.divisor, -width % self.divisor
        if self.min_side > self.divisor:  # a graph of any size computes the larger number, too
            below = torch.sym_max(below, self.min_side - height)
            right = torch.sym_max(right, self.min_side - width)
        if self.divisor > 1 or self.min_side > 1:
            pixels = functional.pad(pixels, (0, right, 0, below), value=self.padding)
        size = tuple(pixels.shape[2:])
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        scores = resize_scores(self.model.encode_decode(pixels, [meta]), size, self.align_corners)
        return scores[:, :, :height, :width].float()


class _MixedPrecision(nn.Module):
    """A backbone in mixed precision, whose feature maps are float32."""

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone, dtype

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(images.device.type, self.dtype):
            return tuple(each.float() for each in self.backbone(images))


def _empty_network() -> MmsegNetwork:
    """Imports mmsegmentation, as only we can, before a pickle names the classes of a network."""
    import_mmseg()
    return MmsegNetwork.__new__(MmsegNetwork)


@torch.random.fork_rng(devices=[])  # mmengine draws weights, which are replaced
def read_network(path: Path, device: str, which: str) -> tuple[MmsegNetwork, Names, Palette]:
    """Reads a checkpoint, which contains the architecture, classes and palette.

    The arguments and errors are those of :meth:`pipeline.segmenter.predict.Segmenter.from_run`.
    """
    path = _CHOICES[which](path) if path.is_dir() else path
    checkpoint = read_checkpoint(path)
    foreign = UserError(f"checkpoint {path} is not a segmenter of stage=train: choose another file")
    try:
        described, weights = checkpoint["meta"]["segmenter"], checkpoint["state_dict"]
        names, palette = check_classes(described["class_names"], described["palette"])
        architecture = ConfigDict(described["model"])
        strip_pretrained(architecture)  # the pretrained weights may no longer exist
        padding = dict(architecture.data_preprocessor.get("test_cfg") or {})
        divisor = padding.pop("size_divisor", 1)
        if padding or type(divisor) is not int or not 1 <= divisor <= MAX_SIZE_DIVISOR:
            raise foreign
        Limits.of(architecture.test_cfg.limits)
        check_crf(architecture.test_cfg.get("crf"))
    except (*MISFITS, UserError) as error:
        raise foreign from error
    with Uninitialised():
        model = build_model(architecture)
    if model.num_classes != len(names):
        raise foreign
    try:
        model.load_state_dict(weights)
    except MISFITS as error:
        raise UserError(
            f"checkpoint {path} does not fit the network that it describes: train it again"
        ) from error
    check_finite(model.state_dict(), path)
    network = MmsegNetwork(model, device)
    network.licence_notes = licence_notes(architecture)
    return network, names, palette
