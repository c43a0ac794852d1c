"""The sections of the benchmark's report that time whole stages, each as Markdown."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from itertools import cycle
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
import yaml
from PIL import Image

from pipeline.cams.cams import Cams
from pipeline.clip.architectures import ClipModel
from pipeline.clip.device import keep_freed_memory
from pipeline.clip.text import class_embeddings, prompts_of
from pipeline.configuration.registry import imported, methods
from pipeline.engine.store import Store
from pipeline.files.shipped import CONFIGS, HOME
from tools.benchmark.masks import random_cams
from tools.benchmark.setup import (
    CROPS_OF_TWO_IMAGES,
    TAGS,
    Setup,
    in_turn,
    load_photographs,
    seconds_an_image,
    section,
    stages_of_run,
    timed,
)

_PLAIN_NAMES = 3  # that the plain version embeds; it takes as long for each
_SIDES = (256, 384, 512, 768, 1024)  # pixels of images that tagging grows with


@cache
def _plain() -> ModuleType:
    """Returns the method in one file: in float32 on a CPU, one class, crop and tag at a time."""
    spec = spec_from_file_location("plain", HOME / "examples" / "tagclip_to_mask.py")
    plain = module_from_spec(spec)
    spec.loader.exec_module(plain)
    return plain


def stages(setup: Setup, clip: ClipModel, size: tuple[int, int], count: int) -> str:
    """Returns images a second of tags and CAMs, and how many times the plain version's that is.

    ``clip`` is the model of the plain version, on the CPU.
    """
    images, text, classes = load_photographs(count, *size), setup.text.cpu(), setup.names[0]
    plain, counts = _plain(), cycle(CROPS_OF_TWO_IMAGES)

    def propose(_: ClipModel, pixels: torch.Tensor, *__: object) -> Iterator[tuple]:
        for each in setup.proposals(pixels, next(counts)):
            yield each.class_index, each.crop, each.inside

    def tag_plainly(image: np.ndarray) -> None:
        pixels = plain.to_pixels(clip, Image.fromarray(image))
        with patch.object(plain, "propose_crops", propose):
            plain.score_classes(clip, pixels, text, classes)

    def cams_plainly(image: np.ndarray) -> None:
        pixels = plain.to_pixels(clip, Image.fromarray(image))
        plain.activation_maps(clip, pixels, text[list(TAGS)], text[classes:])

    with torch.no_grad():
        plain_tags, plain_cams = (
            seconds_an_image(lambda few, work=work: [*map(work, few)], images)
            for work in (tag_plainly, cams_plainly)
        )
    # The plain version runs as the reference implementation does, so that this comes after it.
    keep_freed_memory()
    rows = []
    for name, before, work in (
        ("tags, 4.5 crops", plain_tags, setup.tag),
        ("CAMs, 2 tags", plain_cams, setup.cams),
        ("tags and CAMs together", plain_tags + plain_cams, setup.tag_and_cams),
    ):
        now = seconds_an_image(work, images)
        rows.append([name, f"{before:.3f}", f"{now:.3f}", f"{1 / now:.2f}", f"{before / now:.2f}"])
    header = ["", "plain, s/image", "ours, s/image", "ours, images/s", "times as fast"]
    return section(f"Stages, over {count} images", header, rows)


def cam_methods(setup: Setup, size: tuple[int, int], repeats: int) -> str:
    """Returns what CAMs of two tags take by each other method, beside CLIP-ES's in turn.

    A pair is measured ``repeats`` times; the ratio is the median over the pairs.
    """
    (image,) = load_photographs(1, *size)
    rows = []
    for method in methods("cams"):
        if not method.uses_clip or method.name == "clip_es" or method.settings.needs_more():
            continue  # those with a second backbone have a benchmark of their own
        passes = imported(method.build).passes if method.family == "dense" else 1
        now, clip_es, ratio = in_turn(
            partial(setup.cams, [image], setup.cam_method(method.name)),
            partial(setup.cams, [image]),
            repeats,
        )
        cells = (f"{1000 * now:.0f}", f"{1000 * clip_es:.0f}", f"{ratio:.2f}", str(passes))
        rows.append([method.name, *cells])
    header = ["`cams=`", "ms/image", "ms of CLIP-ES", "× CLIP-ES", "passes"]
    return section("CAMs of other methods, two tags", header, rows)


def refiners(size: tuple[int, int], repeats: int) -> str:
    """Returns what masks of two tags take by each other refiner, beside the CRF's in turn.

    It is the time of all cores together, since refiners in torch share them and the CRF does not.
    """
    (image,), cams = load_photographs(1, *size), random_cams(size, seed=0)
    refine = {
        name: partial(stages_of_run(f"masks={name}")["masks"].load({}), image)
        for name in ("crf", "pamr", "par", "regions")
    }
    crf = partial(refine.pop("crf"), cams)

    def by_pydensecrf(cams: Cams) -> object:
        with patch("pipeline.masks.crf._kernel", lambda: None):
            return crf()

    refine["crf by pydensecrf"] = by_pydensecrf
    rows = []
    for name, other in refine.items():
        now, of_crf, ratio = in_turn(partial(other, cams), crf, repeats, time.process_time)
        rows.append([name, f"{1000 * now:.0f}", f"{1000 * of_crf:.0f}", f"{ratio:.2f}"])
    header = ["`masks=`", "ms of a core per image", "ms of the CRF", "× CRF"]
    return section("Refiners, two tags", header, rows)


def text(clip: ClipModel, tokenizer: Callable, count: int) -> str:
    """Returns how long class embeddings take: plainly, ours when cold, and ours from the disk."""
    templates = prompts_of("tagclip")
    voc = yaml.safe_load((CONFIGS / "dataset" / "voc2012.yaml").read_text(encoding="utf-8"))
    every = [*voc["dataset"]["classes"], *voc["dataset"]["backgrounds"]]
    names = [every[k % len(every)] for k in range(count)]
    plain = _plain()
    tokenizer(["a warm-up"])

    def embed_plainly() -> None:
        for name in names[:_PLAIN_NAMES]:
            plain.embed(clip, tokenizer, name, templates)

    def embed() -> np.ndarray:
        return class_embeddings(clip, tokenizer, [*zip(names)], templates).cpu().numpy()

    with torch.no_grad():
        before = timed(embed_plainly) * len(names) / _PLAIN_NAMES
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        read_or_embed = partial(Store(Path(folder)).array, "key", embed)
        cold, warm = timed(read_or_embed), timed(read_or_embed)
    rows = [
        [f"plain, from {_PLAIN_NAMES} of the names", f"{before:.1f}", "1"],
        ["ours, cold", f"{cold:.1f}", f"{before / cold:.1f}"],
        ["ours, from the disk", f"{warm:.4f}", ""],
    ]
    title = f"Class embeddings of {len(names)} names × {len(templates)} prompts"
    return section(title, ["", "seconds", "times as fast"], rows)


def growth(setup: Setup, size: tuple[int, int]) -> str:
    """Returns how tagging, without CWR's crops, grows with the image, classes and images."""
    cases = [(f"{side}×{side} pixels", setup, 3, (side, side)) for side in _SIDES]
    for count in (20, 40, 80, 171, 1000):
        cases.append((f"{count} classes", replace(setup, names=(count, 0)), 4, size))
    cases += [(f"{count} images", setup, count, size) for count in (2, 4, 8)]
    rows = []
    for name, of_case, count, size_of_case in cases:
        images = load_photographs(count, *size_of_case)
        seconds = seconds_an_image(partial(of_case.tag, reidentify=False), images)
        rows.append([name, f"{seconds:.3f}"])
    return section("Growth of tagging, without CWR", ["", "s/image"], rows)
