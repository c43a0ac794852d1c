"""Prints what CAMs with a second backbone take, on random weights of the published sizes.

``python -m tools.benchmark.second_backbones``: seconds and peak memory of an image of 500×375 with
two tags, each method in a process of its own, beside MaskCLIP's, which is CLIP alone.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from pipeline.clip.checkpoint import build_by_name
from pipeline.clip.device import Batches, keep_freed_memory
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.fused import choose_attention
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.models.sam.model import SamEncoder
from pipeline.clip.second import SECONDS
from pipeline.clip.second_encoder import SecondEncoder
from pipeline.engine.registry import methods
from pipeline.report.markdown import Table
from tools.benchmark.image_text_models import random_tower
from tools.benchmark.setup import TAGS, Setup, load_photographs, timed

_SIZE, _REPEATS = (500, 375), 2
_SAM = {"use_rel_pos": True, "window_size": 14, "global_attn_indexes": (2, 5, 8, 11)}


def random_second(model: str) -> SimpleNamespace:
    """Returns a second backbone of the size of a published one, with random weights."""
    if model.startswith("sam"):
        norm = partial(nn.LayerNorm, eps=1e-6)
        network = VisionTransformerSAM(num_classes=0, neck_chans=0, norm_layer=norm, **_SAM)
        return SimpleNamespace(encoder=SamEncoder(network.eval().requires_grad_(False), 1024))
    tower = replace(random_tower(SECONDS[model]), registers=None)
    return SimpleNamespace(
        encoder=SecondEncoder(tower, torch.float32, choose_attention("auto", "cpu"))
    )


@torch.no_grad()
def measure(name: str) -> str:
    """Returns the seconds of an image, and the peak of this process in GB, in two words."""
    keep_freed_memory()
    lposs, name = name.endswith("+lposs"), name.removesuffix("+lposs")
    clip = build_by_name("ViT-B-16").eval().requires_grad_(False)
    encoder = ClipEncoder(ImageTower.of(clip), kernel=choose_attention("auto", "cpu"))
    cams = Setup(encoder, (20, 25), Batches(1, 4, 8)).cam_method(name)
    cams.options = replace(cams.options, lposs=lposs)
    releases()
    cams.seconds = {key: random_second(one.model) for key, one in cams.options.seconds().items()}
    images = load_photographs(1, *_SIZE)

    def work() -> None:
        for _ in cams.stream((number, image, TAGS) for number, image in enumerate(images)):
            pass

    seconds = min(timed(work) for _ in range(_REPEATS))
    return f"{seconds:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}"


def main(names: Sequence[str]) -> None:
    """Measures one method, or prints the table of all."""
    if names:
        print(measure(names[0]))
        return
    chosen = [m.name for m in methods("dense") if m.settings().seconds()]
    rows = []
    for name in ("maskclip", *chosen, "maskclip+lposs"):
        command = [sys.executable, "-m", "tools.benchmark.second_backbones", name]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append([name, *finished.stdout.split()])
    header = ["cams", "seconds", "peak memory (GB)"]
    for row in rows:
        beyond = float(row[2]) - float(rows[0][2])
        row += [f"{float(row[1]) / float(rows[0][1]):.1f}", f"{beyond:.2f}"]
    header += ["× CLIP alone", "GB beyond CLIP's"]
    print(Table(header, rows, header[:1]).markdown(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
