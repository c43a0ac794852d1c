"""The command line of ``tools/benchmark.py``."""

from __future__ import annotations

import logging
import platform
import resource
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import open_clip
import torch

from pipeline.clip.architectures import find_architecture
from pipeline.clip.compute.fused import choose_attention
from pipeline.clip.device import (
    ATTENTIONS,
    AUTO,
    BY_HEAD,
    FUSED,
    PRECISIONS,
    choose_batches,
    choose_device,
    choose_precision,
    keep_freed_memory,
    settle_precision,
)
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import load_tokenizer
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.commands.command_line import Parser
from pipeline.errors import UserError, check_choice
from pipeline.files.shipped import HOME
from tools.benchmark import sections
from tools.benchmark.bank import bank
from tools.benchmark.costs import peak, steps
from tools.benchmark.masks import masks
from tools.benchmark.photographs import photographs
from tools.benchmark.scale import scale
from tools.benchmark.segmenters import networks, segmenters, training
from tools.benchmark.setup import Setup, load_photographs

_DESCRIPTION = """
Measures seconds per image of every stage on this machine, against a plain version in the same run.
"""
_EXAMPLES = """examples:
  python tools/benchmark.py
      ViT-B/16 with random weights, so that nothing is downloaded; all sections
  python tools/benchmark.py --precision bf16 --sections steps,stages
  python tools/benchmark.py --model ViT-L-14 --size 640x480
      another CLIP of open_clip
  python tools/benchmark.py --checkpoint data/demo/clip.safetensors --size 320x240 --names 10,6
      the demo's
"""
_SECTIONS = (
    "steps",
    "stages",
    "cams",
    "bank",
    "text",
    "growth",
    "masks",
    "refiners",
    "segmenters",
    "networks",
    "training",
    "memory",
    "scale",
    "photographs",
)
_PEAK_MEMORY = "peak-memory"
"""What the section "memory" measures in a process of its own."""


def run(arguments: Sequence[str]) -> None:
    """Measures the sections that the arguments ask for.

    Raises:
        UserError: a model, device, precision or section that does not exist, or no size.
    """
    options = _parse(arguments)
    again = [sys.executable, str(HOME / "tools" / "benchmark.py"), *arguments]
    wanted = options.sections.split(",")
    for name in wanted:
        if name != _PEAK_MEMORY:
            check_choice(f"there is no section {name}", name, _SECTIONS)
    device = torch.device(choose_device(options.device))
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # whose work is waited for
    options.precision = settle_precision(options.precision, device.type)
    precision = choose_precision(options.precision, device.type)
    if options.checkpoint is not None:
        clip = load_clip(options.checkpoint)
    else:
        find_architecture(options.model)
        logging.disable(logging.WARNING)  # that the weights are random
        clip = open_clip.create_model(options.model, pretrained=None)
    clip = clip.eval().requires_grad_(False).to(device)
    size = _two_numbers(options.size, "x", "--size", "500x375")
    names = _two_numbers(options.names, ",", "--names", "20,25")
    batches = choose_batches(vars(options), device.type)
    plain_clip = deepcopy(clip).cpu() if "stages" in wanted else None
    kernel = choose_attention(options.attention, str(device))
    setup = Setup(
        ClipEncoder(ImageTower.of(clip), precision=precision, kernel=kernel), names, batches
    )
    if wanted == [_PEAK_MEMORY]:
        keep_freed_memory()
        setup.tag_and_cams(load_photographs(2 * batches.images, *size))
        print(f"{_peak_memory() / 2**30:.2f}")
        return
    machine_peak = peak(device, precision)
    work = {
        "steps": lambda: steps(setup, size, machine_peak, options.repeats),
        "stages": lambda: sections.stages(setup, plain_clip, size, options.images),
        "cams": lambda: sections.cam_methods(setup, size, options.repeats),
        "bank": lambda: bank(setup, precision, kernel, options.repeats),
        "text": lambda: sections.text(clip, load_tokenizer(None), sum(names)),
        "growth": lambda: sections.growth(setup, size),
        "masks": lambda: masks(size),
        "refiners": lambda: sections.refiners(size, options.repeats),
        "segmenters": lambda: segmenters(
            options.segmenters.split(","),
            size,
            options.crop,
            str(device),
            options.precision,
            machine_peak,
            options.repeats,
        ),
        "networks": lambda: networks(
            options.networks.split(","), size, str(device), options.repeats
        ),
        "training": lambda: training(str(device), options.precision, options.repeats),
        "memory": lambda: _memory(again),
        "scale": lambda: scale(setup, size),
        "photographs": lambda: photographs(
            names, batches, str(device), options.attention, options.repeats
        ),
    }
    if len(wanted) == 1:
        if wanted[0] not in ("stages", "text"):  # which measure the plain version before
            keep_freed_memory()  # as the stages do
        print(work[wanted[0]](), flush=True)
        return
    conditions = [
        _processor(),
        f"{options.checkpoint or options.model}",
        f"{size[0]}×{size[1]} pixels",
        f"{names[0]} classes and {names[1]} backgrounds",
        f"{options.precision} on {device.type} with {torch.get_num_threads()} threads",
        f"attention {FUSED if kernel else BY_HEAD}",
        f"batches of {batches.images} images and {batches.crops} crops",
        f"peak of a matrix product {machine_peak / 1e9:.0f} GFLOP/s"
        f" ({peak(device, precision, torch.matmul) / 1e9:.0f} by torch.matmul)",
    ]
    print(", ".join(conditions) + "\n", flush=True)
    # Each in a process of its own, so that none profits from what another has set up.
    for name in [name for name in _SECTIONS if name in wanted]:
        subprocess.run([*again, "--sections", name], check=True)


def _processor() -> str:
    """Returns the name of the processor, and its instructions that matter here."""
    about = torch.backends.cpu.get_cpu_capability()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        amx = " and AMX" if "amx_tile" in found.get("flags", "") else ""
        return f"{found.get('model name', platform.machine())} ({about}{amx})"
    return f"{platform.processor() or platform.machine()} ({about})"


def _two_numbers(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    """Reads two whole numbers above 0.

    Raises:
        UserError: it is something else.
    """
    try:
        first, second = map(int, text.split(separator))
    except ValueError:
        first = second = 0
    if min(first, second) < 1:
        raise UserError(f"{option} {text} is not two numbers above 0: give {example}")
    return first, second


def _memory(again: Sequence[str]) -> str:
    """Returns the peak memory of tags and CAMs, in processes that run the command ``again``."""
    rows = ""
    for batch_size in (1, 8):
        command = [*again, "--sections", _PEAK_MEMORY, "--batch-size", str(batch_size)]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        rows += f"* batches of {batch_size}: {finished.stdout.strip()} GiB\n"
    return f"## Peak memory of tags and CAMs together\n\n{rows}"


def _peak_memory() -> int:
    """Returns the most bytes that this process has had in memory so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = Parser("benchmark.py", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    add("--model", default="ViT-B-16-quickgelu", help="open_clip's name; random weights")
    add("--checkpoint", type=Path, help="a file of weights in OpenAI's format, in place of --model")
    add("--size", default="500x375", help="width and height of the images")
    add("--names", default="20,25", help="number of classes, and of backgrounds")
    add("--crop", type=int, default=321, help="side of the crops that segmenters are trained on")
    add("--images", type=int, default=8, help="number of images that stages are measured on")
    add("--batch-size", type=int, help="images that CLIP processes together")
    add("--crop-batch-size", type=int, help="crops that CWR classifies together")
    add("--repeats", type=int, default=5, help="runs, of which the median counts")
    add("--precision", default="fp32", choices=(*PRECISIONS, AUTO), help="as runtime.precision")
    add("--attention", default=AUTO, choices=ATTENTIONS, help="as runtime.attention")
    presets = "demo,light,segformer_b0,deeplabv3plus_mobilenet,deeplabv2_r101"
    timm = "presets of configs/segmenter; timm:convnext_tiny for a backbone of timm"
    add("--segmenters", default=presets, help=timm)
    towers = "light,frozen_clip:ViT-B-32,frozen_clip:ViT-B-16,frozen_clip:ViT-L-14"
    add("--networks", default=towers, help="presets, frozen_clip with a model of open_clip")
    add("--device", default="auto", help="cpu, cuda or auto")
    add("--sections", default=",".join(_SECTIONS), help=f"any of {', '.join(_SECTIONS)}")
    return parser.parse_args(arguments)
