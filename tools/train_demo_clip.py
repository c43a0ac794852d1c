"""Trains the demo CLIP on captions of rendered scenes, with contrastive losses alone.

No mask and no box is used: a training example is a picture (a random part of a scene) and the
sentence that says what it shows. Two measures give so small and so briefly trained a model the
property that TagCLIP builds on, namely that the values of the last block carry what a patch shows:

* in three steps of four the class token sees only itself before the last block, so that it has to
  gather its evidence from the values of the last one;
* half of the loss is on a second image embedding, the patches' own value path (identity attention
  in the last block), averaged with the class token's attention as weights.

A run that was stopped goes on from its last checkpoint.
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

answer(lambda _: import_module("open_clip"))  # or says how to get the packages that are missing

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file

from pipeline.datasets.scenes import Scene, load_world, render_scene

EXAMPLES = """examples:
  python tools/train_demo_clip.py --steps 2400 --output data/demo/clip.safetensors
      a training of hours on two cores; data/demo/CLIP.md says what it is and how it went
  python tools/train_demo_clip.py --steps 200 --scenes 400 --output try.bin --checkpoint try.pt
      a short try
"""
SIZES = {112: 192, 176: 96}  # side of a picture in pixels: pictures in a batch
LARGE_EVERY = 4  # every so many steps the larger pictures
ISOLATED_SHARE = 0.75  # of the steps in which the class token sees only itself before the end
ZOOM = (0.6, 1.6)  # a scene's pixels are shown at between these scales
SMALLEST_VISIBLE = 0.02  # of a picture's area, for an object to count as in view
BATCH_STREAM, EPOCH_SEED = "captions", 7


def build_model() -> CLIP:
    """Returns the untrained model: ViT 192×12, patch 16, native 224; text 128×3; embedding 256."""
    torch.manual_seed(EPOCH_SEED)
    return CLIP(
        embed_dim=256,
        vision_cfg=CLIPVisionCfg(layers=12, width=192, patch_size=16, image_size=224),
        text_cfg=CLIPTextCfg(context_length=77, vocab_size=49408, width=128, heads=2, layers=3),
        quick_gelu=True,
    )


# Pictures and captions


def _render(index: int) -> Scene:
    return render_scene(load_world("demo"), BATCH_STREAM, index)


def cut_picture(scene: Scene, side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Cuts a part of a scene.

    Returns:
        The picture, side×side×3 uint8, and the names of the classes in view, largest first.
    """
    height, width = scene.mask.shape
    zoom = math.exp(rng.uniform(*np.log(ZOOM)))
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    h, w = (min(n, round(side / zoom * f)) for n, f in ((height, stretch), (width, 1 / stretch)))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    image = scene.image[top : top + h, left : left + w]
    mask = scene.mask[top : top + h, left : left + w]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.BICUBIC)
    area = np.bincount(mask.ravel())[1:] / mask.size
    names = list(load_world("demo")["classes"])
    visible = [names[k] for k in np.argsort(-area, kind="stable") if area[k] >= SMALLEST_VISIBLE]
    return np.asarray(picture), visible


class Batches:
    """Batch number ``step``, the same whenever and wherever it is asked for."""

    def __init__(self, scenes: list[Scene], tokenizer: open_clip.SimpleTokenizer):
        self.scenes = scenes
        self.tokenizer = tokenizer
        self.templates = [fill("{}") for fill in open_clip.OPENAI_IMAGENET_TEMPLATES]

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns pictures B×S×S×3 uint8, tokens B×T and which captions name the same, B×B."""
        rng = np.random.default_rng([EPOCH_SEED, step])
        side = list(SIZES)[step % LARGE_EVERY == 0]
        pictures, captions, contents = [], [], []
        for index in rng.integers(len(self.scenes), size=SIZES[side]):
            scene = self.scenes[index]
            picture, visible = cut_picture(scene, side, rng)
            caption, names = write_caption(visible, scene.ground, self.templates, rng)
            pictures.append(picture)
            captions.append(caption)
            contents.append(names)
        tokens = self.tokenizer(captions).numpy()
        tokens = tokens[:, : int((tokens > 0).sum(1).max())]
        same = np.array([[a == b for b in contents] for a in contents])
        return np.stack(pictures), tokens, same


def write_caption(
    visible: list[str], ground: str, templates: list[str], rng: np.random.Generator
) -> tuple[str, frozenset[str]]:
    """Writes a caption for a scene.

    Args:
        visible: names of the visible classes, the largest object first; may be empty.
        ground: name of the ground.
        templates: prompts with one ``{}``, one of which is drawn at random.
        rng: the random generator.

    Returns:
        The caption, and the set of names in it.
    """
    world = load_world("demo")
    odds = world["captions"]
    named = visible[:1] + [n for n in visible[1:] if rng.random() < odds["name_further"]]
    template = str(rng.choice(templates))
    if not named:
        return template.format(ground), frozenset([ground])
    words = " and a ".join(named)
    if rng.random() >= odds["name_ground"]:
        return template.format(words), frozenset(named)
    words += f" {world['grounds'][ground]} {ground}"
    return template.format(words), frozenset([*named, ground])


# The model


def image_embeddings(
    model: CLIP, pictures: torch.Tensor, isolated: bool, offset: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeds pictures smaller than the native size at a random window of the position grid.

    Args:
        pictures: B×3×S×S, normalised.
        isolated: whether the class token sees only itself before the last block.
        offset: row and column of the window, in patches.

    Returns:
        The class token's embedding and the pooled value path's, each B×256, L2-normalised.
    """
    visual = model.visual
    patches = visual.conv1(pictures)
    side = patches.shape[-1]
    positions = visual.positional_embedding[1:].unflatten(0, visual.grid_size)
    window = positions[offset[0] : offset[0] + side, offset[1] : offset[1] + side].flatten(0, 1)
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(pictures), 1, -1)
    x = visual.ln_pre(torch.cat([first, patches.flatten(2).mT + window], 1))

    mask = None
    if isolated:
        mask = torch.zeros(x.shape[1], x.shape[1])
        mask[0, 1:] = -torch.inf
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=mask)

    attn = last.attn
    heads = attn.num_heads
    projected = F.linear(last.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = projected.chunk(3, -1)
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query[:, :1], key, value)]
    weights = (split[0] @ split[1].mT / math.sqrt(split[0].shape[-1])).softmax(-1)  # B×heads×1×N
    gathered = (weights @ split[2]).transpose(1, 2).flatten(2)

    def finish(residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        y = residual + attn.out_proj(attended)
        return visual.ln_post(y + last.mlp(last.ln_2(y))) @ visual.proj

    class_embedding = finish(x[:, :1], gathered)[:, 0]
    values = F.normalize(finish(x[:, 1:], value[:, 1:]), dim=-1)
    share = weights.mean(1)[:, 0, 1:]
    pooled = (share / share.sum(-1, keepdim=True)).unsqueeze(1) @ values
    return F.normalize(class_embedding, dim=-1), F.normalize(pooled[:, 0], dim=-1)


def text_embeddings(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Embeds captions that were cut after the longest: B×T to B×256, L2-normalised."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection
    return F.normalize(x, dim=-1)


def contrastive_loss(logits: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Returns InfoNCE over both directions; captions that name the same share the probability."""
    target = same / same.sum(-1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


# Training


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Rises over 100 steps, stays, and falls to 0 over the last 40%."""
    return peak * min((step + 1) / 100, 1.0, max(steps - step, 0) / (0.4 * steps))


def train(arguments: Namespace) -> CLIP:
    """Trains from the last checkpoint, if there is one, to the last step."""
    with ProcessPoolExecutor(arguments.workers) as pool:
        scenes = list(pool.map(_render, range(arguments.scenes), chunksize=50))
    print(f"rendered {len(scenes)} scenes", flush=True)
    model = build_model().train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    start = 0
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    batches = Batches(scenes, open_clip.get_tokenizer("ViT-B-16"))
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(batches, start)
        for step in range(start, arguments.steps):
            pictures, tokens, same = map(torch.from_numpy, upcoming.result())
            upcoming = ahead.submit(batches, step + 1)
            rng = np.random.default_rng([EPOCH_SEED, 1, step])
            room = 14 - pictures.shape[1] // 16 + 1
            offset = tuple(int(n) for n in rng.integers(room, size=2))
            with torch.autocast("cpu", torch.bfloat16):
                images = (pictures.permute(0, 3, 1, 2) / 255 - mean) / std
                isolated = rng.random() < ISOLATED_SHARE
                class_embedding, pooled = image_embeddings(model, images, isolated, offset)
                text = text_embeddings(model, tokens).float()
            scale = model.logit_scale.exp()
            losses = [
                contrastive_loss(scale * e.float() @ text.T, same.float())
                for e in (class_embedding, pooled)
            ]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, arguments.steps, arguments.learning_rate)
            optimizer.zero_grad(set_to_none=True)
            (sum(losses) / 2).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            model.logit_scale.data.clamp_(max=math.log(100))
            if step % 20 == 0 or step == arguments.steps - 1:
                seconds = (time.monotonic() - began) / (step - start + 1)
                shown = " ".join(f"{loss.item():.3f}" for loss in losses)
                print(f"{step} loss {shown} scale {scale.item():.1f} {seconds:.2f} s", flush=True)
            if (step + 1) % 100 == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                partial = arguments.checkpoint.with_suffix(".partial")
                torch.save({**state, "step": step + 1}, partial)
                partial.replace(arguments.checkpoint)
    return model


def run(given: Sequence[str]) -> None:
    """Trains as the arguments say, and writes the weights in OpenAI's naming as float16."""
    arguments = parse_arguments(given)
    arguments.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    model = train(arguments)
    weights = {name: t.half().contiguous() for name, t in model.state_dict().items()}
    save_file(weights, arguments.output)
    print(f"written to {arguments.output}")


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Reads the command line."""
    parser = Parser("train_demo_clip.py", __doc__, EXAMPLES)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("data/demo/clip.safetensors"),
        metavar="FILE",
        help="where the weights are written; data/demo/clip.safetensors unless given",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("outputs/demo_clip.pt"),
        metavar="FILE",
        help="written every 100 steps, and gone on from; outputs/demo_clip.pt unless given",
    )
    parser.add_argument("--steps", type=int, default=2400, metavar="N", help="2400")
    parser.add_argument(
        "--scenes", type=int, default=12000, metavar="N", help="that captions are of; 12000"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="0.001")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="that render; 2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    answer(run)
