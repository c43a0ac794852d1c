"""Measures what every step of tagging and of the maps costs for one image, beside plain CLIP.

python tools/benchmark.py                                    ViT-B/16, random weights, no download
python tools/benchmark.py --model ViT-L-14 --size 640x480    another CLIP of open_clip
python tools/benchmark.py --checkpoint data/demo/clip.safetensors --size 320x240 --names 10,6
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from pipeline.benchmark import cost_of_steps, cost_table, peak
from pipeline.clip.checkpoint import load_clip
from pipeline.clip.encoder import ClipEncoder
from pipeline.device import PRECISIONS, choose_device, choose_precision
from pipeline.errors import UserError

USER_ERROR = 2


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="open_clip's name")
    parser.add_argument("--checkpoint", type=Path, help="weights in OpenAI's format, instead")
    parser.add_argument("--size", default="500x375", help="width and height of the image")
    parser.add_argument("--names", default="20,25", help="how many classes and backgrounds")
    parser.add_argument("--crops", type=int, default=2, help="classes that CWR looks at again")
    parser.add_argument("--tags", type=int, default=2, help="tags that get a map")
    parser.add_argument("--crop-batch-size", type=int, default=2, help="of CWR")
    parser.add_argument("--repeats", type=int, default=5, help="runs that a median is taken of")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    arguments = parse_arguments()
    try:
        device = torch.device(choose_device(arguments.device))
        if arguments.checkpoint is not None:
            clip = load_clip(arguments.checkpoint)
        elif arguments.model in open_clip.list_models():
            logging.disable(logging.WARNING)  # that the weights are random
            clip = open_clip.create_model(arguments.model, pretrained=None)
        else:
            raise UserError(
                f"open_clip has no model {arguments.model}: open_clip.list_models() shows its names"
            )
        precision = choose_precision(arguments.precision, device.type)
        encoder = ClipEncoder(clip.eval().requires_grad_(False).to(device), precision=precision)
        width, height = map(int, arguments.size.split("x"))
        classes, backgrounds = map(int, arguments.names.split(","))
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    torch.manual_seed(0)
    embedding = encoder.visual.proj.shape[1]
    text = F.normalize(torch.randn(classes + backgrounds, embedding), dim=-1).to(device)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    machine_peak = peak(device, precision)
    costs = cost_of_steps(
        encoder,
        text,
        classes,
        image,
        crops=arguments.crops,
        tags=arguments.tags,
        crop_batch_size=arguments.crop_batch_size,
        repeats=arguments.repeats,
    )
    name = arguments.checkpoint or arguments.model
    conditions = [
        f"{name}",
        f"{width}×{height} pixels",
        f"{classes} classes and {backgrounds} backgrounds",
        f"{arguments.precision} on {device.type} with {torch.get_num_threads()} threads",
        f"peak of a matrix product {machine_peak / 1e9:.0f} GFLOP/s",
    ]
    print(", ".join(conditions) + "\n")
    print(cost_table(costs, machine_peak))


if __name__ == "__main__":
    main()
