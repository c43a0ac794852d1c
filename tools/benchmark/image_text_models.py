"""Prints the seconds that image-text models take for an image, on random weights of their size.

``python -m tools.benchmark.image_text_models [NAME …]`` with names of registered models; by default
those of a ViT-B, beside CLIP ViT-B/16. Crops of CWR have a model's native size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from pipeline.clip.checkpoint import build_by_name
from pipeline.clip.device import Batches, keep_freed_memory
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.fused import choose_attention
from pipeline.clip.image_text import Release, releases
from pipeline.clip.image_tower import BILINEAR, ImageTower
from pipeline.dense.method import build_method
from pipeline.engine.registry import find_method
from pipeline.report.markdown import Table
from tools.benchmark.setup import Setup, load_photographs, timed

_SIZE = (500, 375)
_HEAD_WIDTH = 64
_REPEATS = 3


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


@torch.no_grad()
def row(name: str, tower: ImageTower, precision: torch.dtype) -> list[str]:
    """Returns the seconds of an image: tags before CWR, a crop, and the features of patches."""
    kernel = choose_attention("auto", "cpu")
    encoder = ClipEncoder(tower, precision=precision, kernel=kernel)
    setup, images = Setup(encoder, (20, 25), Batches(1, 4, 8)), load_photographs(1, *_SIZE)
    pixels, tagger = encoder.prepare(images[0]), setup.tagger()
    crops, method = (
        setup.proposals(pixels, 4),
        build_method(find_method("dense", "value_path").settings()),
    )

    def cams() -> None:
        method.patch_features(encoder, method.run_pass(encoder, pixels[None]))

    work = (
        (lambda: setup.tag(images, reidentify=False), 1),
        (lambda: tagger.cwr.classify(crops, 4), 4),
        (cams, 1),
    )
    seconds = [min(timed(each) for _ in range(_REPEATS)) / count for each, count in work]
    patches = (encoder.native_size // encoder.patch_size) ** 2
    return [
        name,
        f"{pixels[0].numel() // encoder.patch_size**2:,}",
        f"{patches:,}",
        *map("{:.2f}".format, seconds),
    ]


def main(names: Sequence[str]) -> None:
    """Measures CLIP ViT-B/16 and the models of the names."""
    keep_freed_memory()
    chosen = names or [name for name, release in releases().items() if release.heads == 12]
    clip = build_by_name("ViT-B-16").eval().requires_grad_(False)
    towers = {"CLIP ViT-B/16": ImageTower.of(clip)}
    towers |= {name: random_tower(releases()[name]) for name in chosen}
    header = ["model", "patches", "patches of a crop"]
    header += ["tags without CWR (s)", "a crop of CWR (s)", "features of patches (s)"]
    rows = [row(name, tower, torch.float32) for name, tower in towers.items()]
    print(Table(header, rows, header[:1]).markdown(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
