"""Measures what tagging and maps cost on this machine, against a plain version in the same run."""

from __future__ import annotations

import logging
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch

from pipeline.benchmark import sections
from pipeline.benchmark.costs import peak
from pipeline.benchmark.scale import scale
from pipeline.benchmark.segmenters import segmenters
from pipeline.benchmark.setup import load_photographs, peak_memory, tags_and_maps
from pipeline.clip.architectures import find_architecture
from pipeline.clip.checkpoint import load_clip
from pipeline.clip.device import (
    PRECISIONS,
    choose_batches,
    choose_device,
    choose_precision,
    keep_freed_memory,
)
from pipeline.clip.text import load_tokenizer
from pipeline.commands.command_line import Parser
from pipeline.errors import UserError, did_you_mean

EXAMPLES = """examples:
  python tools/benchmark.py
      ViT-B/16 with random weights, so that nothing is downloaded; all sections
  python tools/benchmark.py --precision bf16 --sections steps,stages
  python tools/benchmark.py --model ViT-L-14 --size 640x480
      another CLIP of open_clip
  python tools/benchmark.py --checkpoint data/demo/clip.safetensors --size 320x240 --names 10,6
      the demo's
"""
SECTIONS = ("steps", "stages", "text", "growth", "masks", "segmenters", "memory", "scale")


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Reads the command line."""
    parser = Parser("benchmark.py", __doc__, EXAMPLES)
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--checkpoint", type=Path, help="weights in OpenAI's format, instead")
    parser.add_argument("--size", default="500x375", help="width and height of the images")
    parser.add_argument("--names", default="20,25", help="how many classes and backgrounds")
    parser.add_argument("--images", type=int, default=8, help="that stages are measured on")
    parser.add_argument("--batch-size", type=int, help="images that CLIP looks at together")
    parser.add_argument("--crop-batch-size", type=int, help="crops that CWR classifies together")
    parser.add_argument("--repeats", type=int, default=5, help="runs that a median is taken of")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument(
        "--segmenters",
        default="demo,light,segformer_b0,deeplabv3plus_mobilenet,deeplabv2_r101",
        help="presets of configs/segmenter; timm:convnext_tiny for a backbone of timm",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument(
        "--sections", default=",".join(SECTIONS), help=f"any of {', '.join(SECTIONS)}"
    )
    return parser.parse_args(arguments)


def run(given: Sequence[str]) -> None:
    """Measures the sections that the arguments ask for.

    Raises:
        UserError: a model, device, precision or section that does not exist, or no size.
    """
    arguments = parse_arguments(given)
    wanted = arguments.sections.split(",")
    if unknown := [name for name in wanted if name not in (*SECTIONS, "peak-memory")]:
        known = f"{did_you_mean(unknown[0], SECTIONS)}choose from {', '.join(SECTIONS)}"
        raise UserError(f"there is no section {unknown[0]}: {known}")
    device = torch.device(choose_device(arguments.device))
    precision = choose_precision(arguments.precision, device.type)
    if arguments.checkpoint is not None:
        clip = load_clip(arguments.checkpoint)
    else:
        find_architecture(arguments.model)
        logging.disable(logging.WARNING)  # that the weights are random
        clip = open_clip.create_model(arguments.model, pretrained=None)
    clip = clip.eval().requires_grad_(False).to(device)
    width, height = two_numbers(arguments.size, "x", "--size", "500x375")
    classes, backgrounds = two_numbers(arguments.names, ",", "--names", "20,25")
    sizes = {"batch_size": arguments.batch_size, "crop_batch_size": arguments.crop_batch_size}
    batches = choose_batches({**sizes, "most_waiting": None}, device.type)
    names = (classes, backgrounds)
    setup = sections.build_setup(
        clip, precision, names, batches.images, batches.crops, beside_plain="stages" in wanted
    )
    if wanted == ["peak-memory"]:
        keep_freed_memory()
        tags_and_maps(setup, load_photographs(2 * batches.images, width, height))
        print(f"{peak_memory() / 2**30:.2f}")
        return
    machine_peak = peak(device, precision)
    size = (width, height)
    work = {
        "steps": lambda: sections.steps(setup, size, machine_peak, arguments.repeats),
        "stages": lambda: sections.stages(setup, size, arguments.images),
        "text": lambda: sections.text(clip, load_tokenizer(None), sum(names)),
        "growth": lambda: sections.growth(setup, size),
        "masks": lambda: sections.masks(size),
        "segmenters": lambda: segmenters(
            arguments.segmenters.split(","),
            size,
            str(device),
            arguments.precision,
            machine_peak,
            arguments.repeats,
        ),
        "memory": memory,
        "scale": lambda: scale(setup, size),
    }
    if len(wanted) == 1:
        print(work[wanted[0]](), flush=True)
        return
    conditions = [
        f"{arguments.checkpoint or arguments.model}",
        f"{width}×{height} pixels",
        f"{classes} classes and {backgrounds} backgrounds",
        f"{arguments.precision} on {device.type} with {torch.get_num_threads()} threads",
        f"batches of {batches.images} images and {batches.crops} crops",
        f"peak of a matrix product {machine_peak / 1e9:.0f} GFLOP/s"
        f" ({peak(device, precision, torch.matmul) / 1e9:.0f} by torch.matmul)",
    ]
    print(", ".join(conditions) + "\n", flush=True)
    # Each in a process of its own, so that none profits from what another has set up.
    for name in [name for name in SECTIONS if name in wanted]:
        subprocess.run([sys.executable, *sys.argv, "--sections", name], check=True)


def two_numbers(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
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


def memory() -> str:
    """Returns the peak memory of tags and maps together, in processes of their own."""
    rows = ""
    for batch_size in (1, 8):
        command = [sys.executable, *sys.argv, "--sections", "peak-memory"]
        command += ["--batch-size", str(batch_size)]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        rows += f"* batches of {batch_size}: {finished.stdout.strip()} GiB\n"
    return f"## Peak memory of tags and maps together\n\n{rows}"
