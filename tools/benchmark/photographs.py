"""What a folder of photographs takes: seconds for each, and hours for 5,000."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np
import torch
from open_clip.transformer import ResidualAttentionBlock
from PIL import Image
from torch import nn

from pipeline.clip.compute.fused import choose_attention
from pipeline.clip.device import AUTO, Batches, choose_precision, settle_precision
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import Release, releases
from pipeline.clip.image_tower import BILINEAR, ImageTower
from pipeline.clip.weights.checkpoint import build_by_name
from pipeline.engine.pool import count_cores
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Item, Stage
from tools.benchmark.masks import random_cams
from tools.benchmark.setup import (
    CROPS_OF_TWO_IMAGES,
    Setup,
    load_photographs,
    section,
    stages_of_run,
    timed,
)

_COUNT = 5_000
_HEAD_WIDTH = 64
_SIZES = ((500, 375), (4000, 3000))
"""Width and height: an image of VOC, and a phone's photograph."""


class Model(NamedTuple):
    """A model that is measured.

    Attributes:
        name: what the table calls it.
        build: builds its image tower with random weights, on torch's default device.
        cams: the CAM method that it can run.
    """

    name: str
    build: Callable[[], ImageTower]
    cams: str = "clip_es"


def random_tower(release: Release) -> ImageTower:
    """Returns an image tower of the dimensions of a release, with four registers."""
    width, (depth, patch, native) = _HEAD_WIDTH * release.heads, release.dimensions
    blocks = [
        ResidualAttentionBlock(width, release.heads, ls_init_value=1.0).requires_grad_(False)
        for _ in range(depth)
    ]
    return ImageTower(
        normalisation=release.normalisation,
        native_size=native,
        patch_embedding=nn.Conv2d(3, width, patch, patch).requires_grad_(False),
        class_token=torch.randn(width),
        registers=torch.randn(4, width),
        positions=torch.randn(1 + (native // patch) ** 2, width),
        stretch=BILINEAR,
        norm_before=nn.Identity(),
        blocks=blocks,
        norm_after=nn.LayerNorm(width).requires_grad_(False),
        temperature=100.0,
    )


def _clip(name: str) -> ImageTower:
    return ImageTower.of(build_by_name(name).eval().requires_grad_(False))


MODELS = (
    Model("ViT-B/16", partial(_clip, "ViT-B-16-quickgelu")),
    Model("ViT-L/14", partial(_clip, "ViT-L-14-quickgelu")),
    Model("TIPSv2 B/14", lambda: random_tower(releases()["tipsv2_b14"]), "value_path"),
)


class _Photograph(NamedTuple):
    """A photograph as a run sees it, and what a core takes for it beside the models."""

    size: str
    image: np.ndarray
    reading: float
    masking: float


@torch.no_grad()
def photographs(
    names: tuple[int, int], batches: Batches, device: str, attention: str, repeats: int
) -> str:
    """Returns what each further photograph takes with the settings of ``dataset=folder``.

    The start of a run, such as loading a model, is left out. A photograph is read for tags and CAMs
    and once more for its mask, and all cores read and make masks. Each figure is the median of
    ``repeats``.
    """
    stages, cores = stages_of_run(), count_cores()
    with tempfile.TemporaryDirectory() as folder:
        seen = [_photograph(size, stages, Path(folder), repeats) for size in _SIZES]
    rows = []
    for model, precision in product(
        MODELS, dict.fromkeys(("fp32", settle_precision(AUTO, device)))
    ):
        with torch.device(device):
            tower = model.build()
        encoder = ClipEncoder(
            tower,
            precision=choose_precision(precision, device),
            max_patches=stages["tags"].resources.clip.max_patches,
            kernel=choose_attention(attention, device),
        )
        setup = Setup(encoder, names, batches)
        crops = mean(CROPS_OF_TWO_IMAGES) * _crop(setup, seen[-1].image, repeats)
        for photograph in seen:
            images = [photograph.image] * batches.images
            work = partial(setup.tag_and_cams, images, False, setup.cam_method(model.cams))
            plain = _seconds(work, repeats) / len(images)
            plain += (2 * photograph.reading + photograph.masking) / cores
            tall, wide = encoder.patch_grid(photograph.image)
            cells = [model.name, photograph.size, f"{wide}×{tall}", precision]
            for seconds in (plain, plain + crops):
                cells += [f"{seconds:.2f}", f"{_COUNT * seconds / 3600:.1f}"]
            rows.append(cells)
    header = ["model", "photograph", "patches", "precision", "without CWR (s)"]
    header += [f"hours for {_COUNT:,}", "with CWR (s)", f"hours for {_COUNT:,}, with CWR"]
    parts = "".join(
        f"* {each.size}: a core reads it in {each.reading:.2f} s, and makes its mask in"
        f" {each.masking:.2f} s\n"
        for each in seen
    )
    return f"{section(f'Photographs, {cores} cores', header, rows)}\n{parts}"


def _photograph(
    size: tuple[int, int], stages: Mapping[str, Stage], folder: Path, repeats: int
) -> _Photograph:
    """Measures how long a core reads a photograph, and how long it makes a mask of two tags."""
    path = folder / "photograph.jpg"
    Image.fromarray(load_photographs(1, *size)[0]).save(path, quality=90)
    item = Item(Sample("photograph", path), {})
    read, refine = partial(stages["tags"].reader, item.sample), stages["masks"].load({})
    image, full_size = read()
    cams = replace(random_cams(image.shape[1::-1], seed=0), size=full_size)

    def mask() -> None:
        stages["masks"].stored(item, *refine(image, cams))

    name = "×".join(map(str, size))
    return _Photograph(name, image, *(_seconds(work, repeats) for work in (read, mask)))


def _crop(setup: Setup, image: np.ndarray, repeats: int) -> float:
    """Returns the seconds of a crop of CWR, in a batch of them."""
    pixels, count = setup.encoder.prepare(image), setup.batches.crops
    classify = setup.tagger().cwr.classify
    return _seconds(lambda: classify(setup.proposals(pixels, count), count), repeats) / count


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """Returns the median seconds of work, which is done once before, to warm up."""
    work()
    return median(timed(work) for _ in range(repeats))
