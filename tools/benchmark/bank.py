"""What a picture of CorrCLIPv2's memory bank costs, and a search in the bank."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.clip.compute.fused import FusedKernel
from pipeline.clip.image_text import releases
from pipeline.clip.second import SECONDS
from pipeline.clip.second_encoder import SecondEncoder
from pipeline.dense.corrclip import BankSettings, CorrClipSettings
from pipeline.dense.corrclip.bank import Bank
from pipeline.dense.corrclip.learning import RegionEncoder
from pipeline.engine.sample import Sample
from tools.benchmark.photographs import random_tower
from tools.benchmark.setup import Setup, load_photographs, section, stages_of_run, timed

_SIZE, _GRID = (4000, 3000), (20, 15)
"""Width and height of the picture; its regions across and down, which are rectangles."""

_BANKS = (10_000, 100_000)
"""How many regions are searched."""

_PARTS = {
    "method.read_region_map": "reading the map of regions",
    "method.CorrClip.see": "the second backbone, the whole picture",
    "learning.similarity_map": "CLIP, in windows",
    "learning.means_of_regions": "means of both over the regions",
}
"""Functions in ``pipeline.dense.corrclip``, and what the table calls them."""


@torch.no_grad()
def bank(setup: Setup, precision: torch.dtype, kernel: FusedKernel | None, repeats: int) -> str:
    """Returns what describing a picture takes, part by part, and what a search for it takes.

    The second backbones are those of ``cams=corrclip_v2``, C-RADIO L/16 for whole pictures and DINO
    B/8 in CLIP's windows, of random weights. The picture is read as with ``dataset=folder``. Each
    figure is the median of ``repeats``.
    """
    tags, device = stages_of_run()["tags"], setup.encoder.device
    setup.encoder.max_patches = tags.resources.clip.max_patches
    options = CorrClipSettings(whole_picture=True, merge=0, bank=BankSettings(split="train"))
    releases()  # which registers the second backbones
    seconds = {}
    for key, name in (("second", "c_radio_v3_l16"), ("bank.second", "dino_vitb8")):
        with torch.device(device):
            tower = random_tower(SECONDS[name])
        encoder = SecondEncoder(tower, precision, kernel)
        seconds[key] = SimpleNamespace(encoder=encoder, device=device)
    resources = SimpleNamespace(
        clip=setup, seconds=seconds, quirks=SimpleNamespace(position_scale=False)
    )
    describe = RegionEncoder(options, resources)
    with tempfile.TemporaryDirectory() as folder:
        path, regions = Path(folder, "picture.jpg"), Path(folder, "picture.png")
        Image.fromarray(load_photographs(1, *_SIZE)[0]).save(path, quality=90)
        columns, rows = (np.arange(side) * n // side for side, n in zip(_SIZE, _GRID))
        numbers = rows[:, None] * _GRID[0] + columns + 1
        Image.fromarray(numbers.astype(np.uint16)).save(regions)
        image, size = tags.reader(Sample("picture", path))
        work = partial(describe, image, size, regions)
        described, found = work(), [_clocked(work) for _ in range(repeats)]
    found = {name: median(each[name] for each in found) for name in found[0]}
    queries = torch.from_numpy(described["keys"]).to(device).float()
    for count in _BANKS:
        search = partial(_random_bank(count, described, device).support, queries)
        search(options.bank.neighbours)
        spent = [timed(partial(search, options.bank.neighbours)) for _ in range(repeats)]
        found[f"a search among {count:,} regions"] = median(spent)
    width, height = _SIZE
    title = f"Bank: a picture of {width}×{height} pixels and {len(queries)} regions"
    return section(title, ["", "seconds"], [[name, f"{s:.3f}"] for name, s in found.items()])


def _clocked(work: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds of work by its parts, and of all of it."""
    found = dict.fromkeys([*_PARTS.values(), "all of the picture"], 0.0)

    def clocked(part: Callable, name: str) -> Callable:
        def measured(*given: Any, **more: Any) -> object:  # noqa: ANN401
            results = []
            found[name] += timed(lambda: results.append(part(*given, **more)))
            return results[0]

        return measured

    with ExitStack() as patches:
        for part, name in _PARTS.items():
            place = f"pipeline.dense.corrclip.{part}"
            patches.enter_context(patch(place, clocked(resolve_name(place), name)))
        found["all of the picture"] = timed(work)
    return found


def _random_bank(count: int, like: dict[str, np.ndarray], device: torch.device) -> Bank:
    """Returns a bank of so many regions, of as many numbers each as those of a picture."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((count, like[name].shape[1]) for name in ("keys", "values"))
    keys, values = (torch.randn(size, generator=generator).half().to(device) for size in sizes)
    pictures = torch.arange(count, dtype=torch.int32, device=device) // len(like["keys"])
    contents = np.array([f"picture {number}" for number in range(int(pictures[-1]) + 1)])
    return Bank(keys, F.normalize(values, dim=-1), pictures, contents)
