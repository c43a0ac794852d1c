"""What a segmenter costs: a step of its training, and the segmentation of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.datasets.vocabulary import voc_palette
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.predict import Segmenter
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.stages.config import compose, read_config
from tools.benchmark.costs import Cost, measure
from tools.benchmark.setup import load_photographs, section

_CLASSES = 20
_BATCH, _CROP = 2, 321
"""Of a step of training. The crop is the convention's; a batch of two is what batch norm needs."""


def segmenters(
    names: Sequence[str],
    size: tuple[int, int],
    device: str,
    precision: str,
    machine_peak: float,
    repeats: int,
) -> str:
    """Returns what presets of ``configs/segmenter`` cost, with random weights, as Markdown.

    The name "timm:convnext_tiny" is segmenter=timm segmenter.backbone=convnext_tiny. ``precision``
    is that of the training, and of the matrix product of ``machine_peak``, in operations a second;
    an image of width and height ``size`` is segmented in fp32.
    """
    rows = []
    for name in names:
        preset, _, backbone = name.partition(":")
        given = {"batch_size": _BATCH, "crop_size": _CROP, "precision": precision}
        given |= {"pretrained": "null", **({"backbone": backbone} if backbone else {})}
        overrides = [f"segmenter.{key}={value}" for key, value in given.items()]
        settings = read_config(compose([f"segmenter={preset}", *overrides])).segmenter
        training, prediction, parameters = _costs(settings, size, device, repeats)
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
    title = f"Segmenters: training in batches of {_BATCH} crops of {_CROP}², {precision}; one image"
    return section(title, header, rows)


def _costs(
    settings: SegmenterSettings, size: tuple[int, int], device: str, repeats: int
) -> tuple[Cost, Cost, int]:
    """Returns the costs of a step of training and of an image, and the number of parameters."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    names, palette = [f"class {k}" for k in range(_CLASSES)], voc_palette(_CLASSES + 1)
    config = build_config(settings, names, palette, 0, device)
    torch.manual_seed(0)
    model = build_model(config.model).to(device)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    crops = load_photographs(_BATCH, _CROP, _CROP)
    labels = torch.randint(0, _CLASSES + 1, (_BATCH, 1, _CROP, _CROP))
    batch = {
        "inputs": [torch.from_numpy(crop.transpose(2, 0, 1).copy()) for crop in crops],
        "data_samples": [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels],
    }
    model.train()
    training = measure("train", lambda: model.train_step(batch, wrapper), repeats)
    segmenter = Segmenter(model, ("background", *names), tuple(palette), device)
    (image,) = load_photographs(1, *size)
    prediction = measure("predict", lambda: segmenter(image), repeats)
    return training, prediction, sum(p.numel() for p in model.parameters())
