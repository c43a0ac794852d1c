"""What the sections of the benchmark share: the models, with random class embeddings; the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from pipeline.cams.pass_method import PassCams
from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.configuration.registry import find_method
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.engine.stage import Stage
from pipeline.report.tables.markdown import Table
from pipeline.stages.builder import Builder
from pipeline.stages.config import compose, read_config
from pipeline.tags.reidentification import Proposal, cut
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip

CROPS_OF_TWO_IMAGES = (4, 5)
"""How many classes CWR looks at again, image by image: 4.5 on average, as on VOC."""

TAGS = (0, 1)


@dataclass(frozen=True)
class Setup:
    """Models, and what they do to images."""

    encoder: ClipEncoder
    names: tuple[int, int]  # how many classes and backgrounds
    batches: Batches

    @cached_property
    def text(self) -> torch.Tensor:
        """Random embeddings of the classes and then of the backgrounds, C×E."""
        generator = torch.Generator().manual_seed(0)
        tower = self.encoder.tower
        size = (sum(self.names), tower.project(tower.class_token).shape[-1])
        text = torch.randn(size, generator=generator).to(self.encoder.device)
        return F.normalize(text, dim=-1)

    def tagger(self, reidentify: bool = True) -> TagClip:
        """Builds TagCLIP with a fixed number of crops an image, or without CWR."""
        options = TagClipOptions(reidentify=reidentify)
        quirks = SimpleNamespace(open_border=True, cwr_stop=True)
        tagger = TagClip(self.encoder, self.text, self.names[0], options, self.batches, quirks)
        counts = cycle(CROPS_OF_TWO_IMAGES)
        # Random weights propose any number of crops.
        tagger.cwr.propose = lambda pixels, scores: self.proposals(pixels, next(counts))
        return tagger

    def proposals(self, pixels: torch.Tensor, count: int) -> list[Proposal]:
        """Returns the whole image, 3×(P·h)×(P·w) float32, so many times as a crop for CWR."""
        patch, side = self.encoder.patch_size, self.encoder.native_size
        box = (0, 0, pixels.shape[1] // patch, pixels.shape[2] // patch)
        inside = torch.ones(side // patch, side // patch, dtype=torch.bool, device=pixels.device)
        crops = (cut(pixels, box, patch, side) for _ in range(count))
        return [Proposal(k % self.names[0], crop, inside) for k, crop in enumerate(crops)]

    def cam_method(self, name: str = "clip_es") -> PassCams:
        """Builds a CAM method by its name, with the quirks of its released code."""
        method, (classes, backgrounds) = find_method("cams", name), self.names
        vocabulary = SimpleNamespace(
            classes=range(classes), cam_names=(), backgrounds=range(backgrounds)
        )
        clip = SimpleNamespace(
            encoder=self.encoder, batches=self.batches, embed=lambda *names: self.text
        )
        quirks = SimpleNamespace(**{quirk.name: quirk.released for quirk in method.quirks})
        resources = Resources(vocabulary, str(self.encoder.device), clip, quirks)
        return method.settings().build(resources)

    def tag(self, images: Sequence[np.ndarray], reidentify: bool = True) -> None:
        """Tags images."""
        for _ in self.tagger(reidentify).stream(enumerate(images)):
            pass

    def cams(self, images: Sequence[np.ndarray], method: PassCams | None = None) -> None:
        """Computes the CAMs of two tags an image, by CLIP-ES unless a method is given."""
        named = ((index, image, TAGS) for index, image in enumerate(images))
        for _ in (method or self.cam_method()).stream(named):
            pass

    def tag_and_cams(
        self,
        images: Sequence[np.ndarray],
        reidentify: bool = True,
        method: PassCams | None = None,
    ) -> None:
        """Tags images and computes the CAMs of two tags an image from the same pass."""
        method, tagger = method or self.cam_method(), self.tagger(reidentify)
        for _, scored in tagger.stream(enumerate(images), cam_hooks=method.hooks):
            method.cams_of_pass(scored.shared_pass, TAGS)


def load_photographs(count: int, width: int, height: int) -> list[np.ndarray]:
    """Returns the photographs that scikit-image comes with, in turn, resized: height×width×3."""
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    resized = [np.asarray(Image.fromarray(s).resize((width, height))) for s in sources]
    return [resized[k % len(resized)] for k in range(count)]


def stages_of_run(*overrides: str) -> dict[str, Stage]:
    """Returns the stages of a run with 20 classes that make its masks, by name."""
    names = ",".join(f"class {k}" for k in range(20))
    dataset = ["dataset=folder", "dataset.root=unused", f"dataset.classes=[{names}]"]
    config = read_config(compose([*dataset, "clip=vit_b16", *overrides]))
    return Builder(config, build_vocabulary(config.dataset)).per_split("all")


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds that work takes by a clock, on the current GPU as well."""
    _wait()
    began = clock()
    work()
    _wait()
    return clock() - began


def in_turn(
    work: Callable[[], object],
    other: Callable[[], object],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Returns the median seconds of work and of other work, in turn, and of their ratio."""
    work(), other()  # to warm up
    pairs = [(timed(work, clock), timed(other, clock)) for _ in range(repeats)]
    of_work, of_other = (median(each) for each in zip(*pairs))
    return of_work, of_other, median(one / two for one, two in pairs)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_an_image(work: Callable[[Sequence], object], images: Sequence[np.ndarray]) -> float:
    """Returns how long an image takes; the first two are done before, to warm up."""
    work(images[:2])
    return timed(lambda: work(images)) / len(images)


def section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a section of the report as Markdown."""
    return Table(header, rows, header[:1], title).markdown(padded=False)
