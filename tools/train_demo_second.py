"""Trains the demo's second backbone on rendered scenes, without labels, by the loss of iBOT.

iBOT (Zhou et al., ICLR 2022, arXiv 2111.07832) is DINO's loss on the class token, between views of
a scene, and the same loss on masked patches, between a view and itself. The teacher is the moving
average of the student, and what is written. A run that was stopped goes on from its last
checkpoint.
"""

# ruff: noqa: E402
from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import Parser, answer

answer(lambda _: import_module("timm"))  # or says how to get the packages that are missing

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from pipeline.datasets.scenes import load_world, render_scene
from pipeline.files.weight_files import read_weights_file

EXAMPLES = """examples:
  python tools/train_demo_second.py
      less than an hour on two cores; data/demo/SECOND.md says what it is and how it went
  python tools/train_demo_second.py --steps 9 --scenes 99 --checkpoint try.pt --output try.bin
      a short try
"""
WORLDS, STREAM, SEED = ("demo", "demo_crowded"), "second", 11
PATCH, WIDTH, BLOCKS, NATIVE = 8, 192, 6, 224
GLOBAL, LOCAL = 80, 40  # sides of the views in pixels
LOCAL_VIEWS = 4
PROTOTYPES = 1024
STUDENT, TEACHER = 0.1, 0.04  # temperatures
MASKED = (0.1, 0.5)  # share of a view's patches that the student does not see, in half of the views
MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD


class Network(nn.Module):
    """A vision transformer, and the head on its tokens."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model(
            "vit_tiny_patch16_224",
            patch_size=PATCH,
            img_size=NATIVE,
            embed_dim=WIDTH,
            depth=BLOCKS,
            num_heads=WIDTH // 64,
            num_classes=0,
        )
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        self.head = nn.Sequential(
            *(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU()),
            nn.Linear(512, 128),
        )
        self.prototypes = nn.Parameter(F.normalize(torch.randn(PROTOTYPES, 128), dim=-1))

    def forward(
        self, pixels: torch.Tensor, offset: tuple[int, int], masked: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the logits of class token and patches, B×K and B×N×K.

        Args:
            pixels: B×3×S×S, normalised; S is less than the native size.
            offset: row and column of their window in the grid of positions.
            masked: B×N bool, the patches that are not seen.
        """
        vit, side = self.backbone, pixels.shape[-1] // PATCH
        patches = vit.patch_embed.proj(pixels).flatten(2).mT
        if masked is not None:
            patches = torch.where(masked[..., None], self.mask_token.to(patches.dtype), patches)
        grid = vit.pos_embed[0, 1:].unflatten(0, (NATIVE // PATCH, NATIVE // PATCH))
        window = grid[offset[0] : offset[0] + side, offset[1] : offset[1] + side].flatten(0, 1)
        first = (vit.cls_token[0] + vit.pos_embed[0, :1]).expand(len(pixels), 1, -1)
        tokens = vit.norm(vit.blocks(torch.cat([first, patches + window], 1)))
        logits = (
            F.normalize(self.head(tokens).float(), dim=-1) @ F.normalize(self.prototypes, dim=-1).T
        )
        return logits[:, 0], logits[:, 1:]


# Pictures


def _render(task: tuple[str, int]) -> np.ndarray:
    world, index = task
    return render_scene(load_world(world), STREAM, index).image


class Batches:
    """Batch number ``step``, the same whenever and wherever it is asked for."""

    def __init__(self, scenes: list[np.ndarray], size: int):
        self.scenes, self.size = scenes, size
        colours = [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.3, 0.03)], 0.8),
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], 0.3),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
        cut = {"ratio": (0.8, 1.25), "antialias": True}
        self.views = [
            (2, v2.Compose([v2.RandomResizedCrop(GLOBAL, (0.3, 1.0), **cut), *colours])),
            (LOCAL_VIEWS, v2.Compose([v2.RandomResizedCrop(LOCAL, (0.05, 0.3), **cut), *colours])),
        ]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns global and local views, V×B×3×S×S float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED * 1_000_003 + step)
            chosen = torch.randint(len(self.scenes), (self.size,)).tolist()
            images = [torch.from_numpy(self.scenes[k]).permute(2, 0, 1) for k in chosen]
            return tuple(
                torch.stack([torch.stack([view(image) for image in images]) for _ in range(count)])
                for count, view in self.views
            )


def draw_mask(rng: np.random.Generator, count: int, side: int) -> torch.Tensor:
    """Returns which patches of views are masked, B×N bool: rectangles, in half of the views."""
    masked = np.zeros((count, side, side), bool)
    for row in (each for each in masked if rng.random() < 0.5):
        wanted = rng.uniform(*MASKED) * row.size
        while row.sum() < wanted:
            tall, wide = rng.integers(2, side // 2 + 1, size=2)
            top, left = rng.integers(side - tall + 1), rng.integers(side - wide + 1)
            row[top : top + tall, left : left + wide] = True
    return torch.from_numpy(masked).flatten(1)


# Training


def cross_entropy(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Returns −Σ target · log softmax(logits / student's temperature), of the last dimension."""
    return -(target * F.log_softmax(logits / STUDENT, -1)).sum(-1)


class Centres:
    """The moving means of the teacher's logits, which keep it from one answer to everything."""

    def __init__(self):
        self.means = torch.zeros(2, PROTOTYPES)

    def targets(self, part: int, logits: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities of the class token's logits, part 0, or of the patches'."""
        target = ((logits - self.means[part]) / TEACHER).softmax(-1)
        self.means[part].lerp_(logits.flatten(0, -2).mean(0), 0.1)
        return target


def loss_of(
    student: Network,
    teacher: nn.Module,
    centres: Centres,
    views: Sequence[torch.Tensor],
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the losses of the class token and of the masked patches."""
    whole, parts = views
    offsets = [
        tuple(rng.integers((NATIVE - side) // PATCH + 1, size=2)) for side in (GLOBAL, LOCAL)
    ]
    masked = draw_mask(rng, len(whole.flatten(0, 1)), GLOBAL // PATCH)
    with torch.no_grad():
        seen = teacher(whole.flatten(0, 1), offsets[0])
    first = student(whole.flatten(0, 1), offsets[0], masked)
    local = student(parts.flatten(0, 1), offsets[1])[0]
    target, patch_target = (centres.targets(part, each) for part, each in enumerate(seen))
    target = target.unflatten(0, (2, -1))
    of_view = [*first[0].unflatten(0, (2, -1)), *local.unflatten(0, (LOCAL_VIEWS, -1))]
    pairs = [(t, v) for t in range(2) for v in range(len(of_view)) if t != v]
    of_class = sum(cross_entropy(target[t], of_view[v]).mean() for t, v in pairs) / len(pairs)
    return of_class, cross_entropy(patch_target[masked], first[1][masked]).mean()


def schedule(step: int, steps: int) -> tuple[float, float]:
    """Returns the share of the peak rate, which rises and falls, and the teacher's momentum."""
    wave = (1 + math.cos(math.pi * step / steps)) / 2
    return min((step + 1) / (0.1 * steps), 1.0) * (0.02 + 0.98 * wave), 1 - 0.01 * wave


def train(arguments: Namespace) -> nn.Module:
    """Trains from the last checkpoint, if there is one; returns the teacher's backbone."""
    tasks = [(world, k) for world in WORLDS for k in range(arguments.scenes // len(WORLDS))]
    with ProcessPoolExecutor(arguments.workers) as pool:
        scenes = list(pool.map(_render, tasks, chunksize=50))
    print(f"rendered {len(scenes)} scenes", flush=True)
    torch.manual_seed(SEED)
    student, centres, momentum = Network(), Centres(), [0.99]
    teacher = AveragedModel(student, avg_fn=lambda old, new, _: old.lerp(new, 1 - momentum[0]))
    teacher.update_parameters(student)
    decayed = [p for p in student.parameters() if p.ndim >= 2]
    others = [p for p in student.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": others, "weight_decay": 0.0}]
    optimizer, start = torch.optim.AdamW(groups, fused=True), 0
    parts = {"student": student, "teacher": teacher, "optimizer": optimizer}
    if arguments.checkpoint.exists():
        state = read_weights_file(arguments.checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start, centres.means = state["step"], state["centres"]
    batches, began = Batches(scenes, arguments.batch), time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(batches, start)
        for step in range(start, arguments.steps):
            views = upcoming.result()
            upcoming = ahead.submit(batches, step + 1)
            share, momentum[0] = schedule(step, arguments.steps)
            rng = np.random.default_rng([SEED, step])
            losses = loss_of(student, teacher, centres, views, rng)
            for group in optimizer.param_groups:
                group["lr"] = share * arguments.learning_rate
            optimizer.zero_grad(set_to_none=True)
            sum(losses).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            teacher.update_parameters(student)
            if step % 20 == 0 or step == arguments.steps - 1:
                seconds = (time.monotonic() - began) / (step - start + 1)
                shown = " ".join(f"{loss.item():.3f}" for loss in losses)
                print(f"{step} loss {shown} {seconds:.2f} s", flush=True)
            if (step + 1) % 100 == 0:
                state = {name: part.state_dict() for name, part in parts.items()}
                partial = arguments.checkpoint.with_suffix(".partial")
                torch.save({**state, "centres": centres.means, "step": step + 1}, partial)
                partial.replace(arguments.checkpoint)
    return teacher.module.backbone


def run(given: Sequence[str]) -> None:
    """Trains as the arguments say, and writes the weights in DINO's naming as float16."""
    arguments = parse_arguments(given)
    arguments.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    backbone = train(arguments)
    weights = {name: t.half().contiguous() for name, t in backbone.state_dict().items()}
    save_file(weights, arguments.output)
    print(f"written to {arguments.output}")


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Reads the command line."""
    parser = Parser("train_demo_second.py", __doc__, EXAMPLES)
    add = parser.add_argument
    output, checkpoint = Path("data/demo/second.safetensors"), Path("outputs/demo_second.pt")
    add("--output", type=Path, default=output, metavar="FILE", help=f"the weights; {output}")
    text = f"written every 100 steps, and gone on from; {checkpoint}"
    add("--checkpoint", type=Path, default=checkpoint, metavar="FILE", help=text)
    add("--steps", type=int, default=700, metavar="N", help="700")
    add("--scenes", type=int, default=8000, metavar="N", help="half of them crowded; 8000")
    add("--batch", type=int, default=32, metavar="N", help="scenes of a step; 32")
    add("--learning-rate", type=float, default=1e-3, metavar="R", help="0.001")
    add("--workers", type=int, default=2, metavar="N", help="that render; 2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    answer(run)
