"""What a segmenter costs: a step of its training, and the segmentation of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import open_clip
import torch

from pipeline.clip.device import AUTO, choose_precision, is_cpu, settle_precision
from pipeline.clip.image_tower import ImageTower
from pipeline.datasets.vocabulary import voc_palette
from pipeline.segmenter.mmseg import build_config, build_model, import_mmseg
from pipeline.segmenter.mmseg_network import MmsegNetwork
from pipeline.segmenter.optimization import arrange_for_cpu
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.settings import OF_CLIP, SegmenterSettings, side_divisor, whole_patches
from pipeline.segmenter.train import freeze
from pipeline.stages.config import compose, read_config
from tools.benchmark.costs import Cost, measure
from tools.benchmark.setup import in_turn, load_photographs, section

_CLASSES = 20
_CLIP = "ViT-B-16"
"""The tower of ``frozen_clip``."""

_BATCH = 2
"""Of a step of training: what batch norm needs."""

_PHOTOGRAPHS = 5000

_DEMO_BATCH, _DEMO_CROP = 8, 192
"""As ``dataset=demo`` has them."""


def segmenters(
    names: Sequence[str],
    size: tuple[int, int],
    crop: int,
    device: str,
    precision: str,
    machine_peak: float,
    repeats: int,
) -> str:
    """Returns what presets of ``configs/segmenter`` cost, with random weights, as Markdown.

    The name "timm:convnext_tiny" is segmenter=timm segmenter.backbone=convnext_tiny; the CLIP of
    frozen_clip is a ViT-B/16. ``crop`` is the side of the crops of the training. ``precision`` is
    that of the training, and of the matrix product of ``machine_peak``, in operations a second; an
    image of width and height ``size`` is segmented in fp32.
    """
    rows = []
    for name in names:
        preset, _, backbone = name.partition(":")
        given = {"batch_size": _BATCH, "crop_size": crop, "precision": precision}
        given |= {"pretrained": "null", **({"backbone": backbone} if backbone else {})}
        overrides = [f"segmenter.{key}={value}" for key, value in given.items()]
        settings = read_config(compose([f"segmenter={preset}", *overrides])).segmenter
        tower = None
        if settings.decoder and settings.backbone is None:
            settings, tower = _on_tower(settings, _CLIP)
        training, _, prediction, parameters = _costs(settings, tower, size, device, repeats)
        share = training.operations / training.seconds / machine_peak
        rows.append(
            [
                name,
                f"{parameters / 1e6:.1f}",
                f"{training.operations / _BATCH / 1e9:.1f}",
                f"{_BATCH / training.seconds:.2f}",
                f"{100 * share:.0f}%",
                f"{prediction.operations / 1e9:.1f}",
                f"{1 / prediction.seconds:.2f}",
            ]
        )
    header = ["segmenter", "M parameters", "GFLOP a crop, training", "crops/s", "of the peak"]
    header += ["GFLOP an image", "images/s"]
    title = f"Segmenters: training in batches of {_BATCH} crops of {crop}², {precision}; one image"
    return section(title, header, rows)


def networks(names: Sequence[str], size: tuple[int, int], device: str, repeats: int) -> str:
    """Returns what a network of ``dataset=folder`` takes, in the precisions of a training.

    The name "frozen_clip:ViT-L-14" is segmenter=frozen_clip on that model of open_clip, with random
    weights. Images of width and height ``size`` are segmented as the preset does, without the CRF.
    """
    rows = []
    for name in names:
        preset, _, model = name.partition(":")
        for precision in dict.fromkeys(("fp32", settle_precision(AUTO, device))):
            given = [f"segmenter={preset}", f"segmenter.precision={precision}"]
            given.append("segmenter.pretrained=null")
            folder = ["dataset=folder", "dataset.root=unused", "dataset.classes=[]"]
            settings, tower = read_config(compose([*folder, *given])).segmenter, None
            if settings.decoder:
                settings, tower = _on_tower(settings, model or _CLIP)
            step, backbone, image, _ = _costs(settings, tower, size, device, repeats)
            share = f"{1 - backbone.seconds / step.seconds:.0%}" if tower else "–"
            minutes = settings.iterations * step.seconds / 60
            times = [f"{step.seconds:.2f}", share, f"{minutes:.0f}"]
            rows.append([name, precision, *times, f"{_PHOTOGRAPHS * image.seconds / 60:.0f}"])
    header = ["segmenter", "precision", "s/step", "of it the decoder", "training, min"]
    header.append(f"{_PHOTOGRAPHS:,} photographs of {'×'.join(map(str, size))}, min")
    return section("Networks of photographs: the training of dataset=folder", header, rows)


def _on_tower(settings: SegmenterSettings, model: str) -> tuple[SegmenterSettings, ImageTower]:
    """Returns a random tower of open_clip's, and settings whose crops hold its patches."""
    tower = ImageTower.of(open_clip.create_model(model).requires_grad_(requires_grad=False))
    divisor = side_divisor(tower.patch_size, settings.decoder)
    crop_size = whole_patches(settings.crop_size, divisor, settings.crop_size)
    return replace(settings, pretrained=OF_CLIP, crop_size=crop_size), tower


def training(device: str, precision: str, repeats: int) -> str:
    """Returns what a step of the demo's training takes, plainly and as a training computes it.

    Plainly, features lie in memory with the channels first, the optimiser takes one weight after
    the other, and the accuracy for the log is mmsegmentation's. The loader is not included.
    """
    import_mmseg()
    from mmseg.models.decode_heads import decode_head
    from mmseg.models.losses import accuracy

    plain = _step_of_demo(device, "fp32", is_plain=True)

    def step_plainly() -> None:
        with patch.object(decode_head, "accuracy", accuracy):
            plain()

    rows = []
    fastest = settle_precision(AUTO if precision == "fp32" else precision, device)
    for each in dict.fromkeys(("fp32", fastest)):
        ours, before, ratio = in_turn(_step_of_demo(device, each), step_plainly, repeats)
        rows.append([each, f"{before:.3f}", f"{ours:.3f}", f"{1 / ratio:.2f}"])
    header = ["precision", "plain (fp32), s/step", "ours, s/step", "times as fast"]
    title = f"A step of the demo's training: {_DEMO_BATCH} crops of {_DEMO_CROP}²"
    return section(title, header, rows)


def _step_of_demo(device: str, precision: str, *, is_plain: bool = False) -> Callable[[], object]:
    """Returns a step of the demo's training."""
    from mmengine.optim import build_optim_wrapper

    given = {"batch_size": _DEMO_BATCH, "crop_size": _DEMO_CROP, "precision": precision}
    overrides = [f"segmenter.{key}={value}" for key, value in given.items()]
    settings = read_config(compose(["segmenter=demo", *overrides])).segmenter
    config = build_config(settings, *_named(10), 0, device)
    torch.manual_seed(0)
    model = build_model(config.model).to(device).train()
    if is_plain:
        config.optim_wrapper.optimizer.pop("fused", None)
    elif is_cpu(device):
        arrange_for_cpu(model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    batch = _batch(_DEMO_BATCH, _DEMO_CROP, 11)
    return lambda: model.train_step(batch, wrapper)


def _named(count: int) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Returns names and colours of some classes."""
    return [f"class {k}" for k in range(count)], voc_palette(count + 1)


def _batch(count: int, side: int, labels: int) -> dict[str, list]:
    """Returns photographs with random labels, as a loader does."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    truth = torch.randint(0, labels, (count, 1, side, side))
    crops = load_photographs(count, side, side)
    return {
        "inputs": [torch.from_numpy(crop.transpose(2, 0, 1).copy()) for crop in crops],
        "data_samples": [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in truth],
    }


def _costs(
    settings: SegmenterSettings,
    tower: ImageTower | None,
    size: tuple[int, int],
    device: str,
    repeats: int,
) -> tuple[Cost, Cost | None, Cost, int]:
    """Returns the costs of a step of training, of a tower in it, and of an image.

    The last is the number of parameters.
    """
    from mmengine.optim import build_optim_wrapper

    names, palette = _named(_CLASSES)
    config = build_config(settings, names, palette, 0, device, tower=tower)
    torch.manual_seed(0)
    model = build_model(config.model).to(device)
    if settings.freeze or settings.decoder:
        freeze(model.backbone)
    if is_cpu(device):
        arrange_for_cpu(model)  # as a training does
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    batch = _batch(settings.batch_size, settings.crop_size, _CLASSES + 1)
    model.train()
    training = measure("train", lambda: model.train_step(batch, wrapper), repeats)
    pixels = torch.stack(batch["inputs"]).float().to(device)

    def embed() -> None:
        with torch.no_grad(), wrapper.optim_context(model):
            model.backbone(pixels)

    backbone = measure("backbone", embed, repeats) if tower else None
    model.to(memory_format=torch.contiguous_format)
    network = MmsegNetwork(model, device)
    network.compute_backbone_in(choose_precision(settings.test.precision, device))
    segmenter = Segmenter(network, ("background", *names), tuple(palette))
    (image,) = load_photographs(1, *size)
    prediction = measure("predict", lambda: segmenter(image), repeats)
    return training, backbone, prediction, sum(p.numel() for p in model.parameters())
