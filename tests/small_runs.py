"""Small runs on photographs of noise, and what they leave behind."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TINY_SEGMENTER = (
    "segmenter=demo",
    "segmenter.iterations=2",
    "segmenter.batch_size=2",
    "segmenter.crop_size=32",
    "segmenter.overrides.backbone.base_channels=8",
    "segmenter.overrides.backbone.stem_channels=8",
    "segmenter.overrides.decode_head.in_channels=64",
    "segmenter.overrides.decode_head.channels=8",
    "segmenter.overrides.decode_head.c1_in_channels=8",
    "segmenter.overrides.decode_head.c1_channels=8",
)


@dataclass(frozen=True)
class Finished:
    """How a command line ended."""

    code: int
    output: str
    errors: str

    @property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Stage → images computed now, from the cache, and reused from other settings."""
        counts = {}
        for line in self.output.splitlines():
            if match := re.match(r"(\w+) .* (\d+) computed now, (\d+) from the cache(.*)", line):
                reused = re.search(r"(\d+) reused", match[4])
                counts[match[1]] = int(match[2]), int(match[3]), int(reused[1]) if reused else 0
        return counts

    @property
    def computed(self) -> dict[str, int]:
        """Stage → images computed now, of a run that succeeded."""
        assert self.code == 0, self.errors
        return {stage: now for stage, (now, _, _) in self.counts.items()}


def draw_photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Returns an image with two flat rectangles on noise, height×width×3 uint8."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    for _ in range(2):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        image[top : top + height // 3, left : left + width // 3] = rng.integers(0, 256, 3)
    return image


def replaced(options: list[str], *more: str) -> list[str]:
    """Returns options with more, which replace those of their keys, and a choice its group's."""
    keys = {each.partition("=")[0] for each in more}
    kept = (o for o in options if keys.isdisjoint((o.partition("=")[0], o.partition(".")[0])))
    return [*kept, *more]


def folder_options(photographs: Path, checkpoint: object, *more: str) -> list[str]:
    """Returns what a run on photographs needs with the tiny CLIP, but for ``output_dir``.

    More options replace these: see :func:`replaced`.
    """
    options = [
        "dataset=folder",
        f"dataset.root={photographs}",
        "dataset.classes=[cat,person,rocket,cup]",
        "clip=file",
        f"clip.checkpoint={checkpoint}",
        "tags.min_score=0",
        "tags.votes=2",
        "tags.templates=piaa",
        "runtime.precision=fp32",
        "runtime.workers=1",
    ]
    return replaced(options, *more)


def artefacts(root: Path) -> dict[str, bytes]:
    """Returns every result file below a folder; manifests hold times and hosts.

    Text embeddings are left out: who makes them depends on who computes.
    """
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.suffix in (".npz", ".png", ".txt", ".jsonl")
        and path.name != ".fingerprints.jsonl"
        and path.relative_to(root).parts[0] != "text"
    }


def copy_results(source: Path, target: Path) -> Path:
    """Copies an output directory, as if the run had been beside the copy."""
    # The paths of photographs are keys of fingerprints.
    left_out = shutil.ignore_patterns(".fingerprints.jsonl")
    shutil.copytree(source, target, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    config = (target / "config.yaml").read_text()
    config = config.replace(str(source.parent), str(target.parent))
    (target / "config.yaml").write_text(config)
    return target


def wait_for_entries(folder: Path, count: int) -> None:
    """Waits until the journals below a folder hold so many entries, which a thread writes.

    Without it, a busy machine would end a run before its first result is stored.
    """
    deadline = time.monotonic() + 60
    while sum(len(p.read_bytes().splitlines()) for p in folder.glob("*/entries.jsonl")) < count:
        assert time.monotonic() < deadline, f"{folder} has less than {count} entries"
        time.sleep(0.01)


def latest(root: Path, stage: str, split: str = "all") -> Path:
    return root / split / stage / "latest"
