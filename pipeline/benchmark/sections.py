"""The sections of the benchmark's report, each as Markdown."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from pipeline.benchmark import plain
from pipeline.benchmark.costs import cost_of_steps, cost_table
from pipeline.benchmark.setup import (
    Setup,
    build_tagger,
    load_photographs,
    maps,
    plain_maps,
    plain_tags,
    seconds_an_image,
    tags,
    tags_and_maps,
)
from pipeline.cams.cams import Cams, encode_cams
from pipeline.clip.architectures import ClipModel
from pipeline.clip.device import keep_freed_memory
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.text import TEMPLATES, class_embeddings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.registry import method_of
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.store import StageFolder, Store
from pipeline.engine.workers import Executor, ExecutorSettings
from pipeline.files.images import encode_png
from pipeline.masks.pseudo_mask import PseudoMaskOptions
from pipeline.masks.stage import Masks
from pipeline.report.markdown import markdown_table

_PLAIN_NAMES = 3  # that the plain version embeds; it takes as long for each
_VOC = Path(__file__).resolve().parents[2] / "configs" / "dataset" / "voc2012.yaml"
_MASKS = 64


def steps(setup: Setup, size: tuple[int, int], machine_peak: float, repeats: int) -> str:
    """Returns what every step costs for one image of width and height ``size``."""
    keep_freed_memory()  # as the stages do
    (image,) = load_photographs(1, *size)
    costs = cost_of_steps(
        setup.encoder,
        setup.text,
        setup.class_count,
        image,
        crops=setup.crop_batch_size,
        tags=2,
        crop_batch_size=setup.crop_batch_size,
        repeats=repeats,
    )
    return "## Steps, for one image\n\n" + cost_table(costs, machine_peak)


def stages(setup: Setup, size: tuple[int, int], count: int) -> str:
    """Returns images a second of tags and maps, and how many times the plain version's that is."""
    images = load_photographs(count, *size)
    by_plain_tags = seconds_an_image(plain_tags, setup, images)
    by_plain_maps = seconds_an_image(plain_maps, setup, images)
    # The plain version runs as research code does, so that this comes after it.
    keep_freed_memory()
    measured = [
        ("tags, 4.5 crops", by_plain_tags, seconds_an_image(tags, setup, images)),
        ("maps, 2 tags", by_plain_maps, seconds_an_image(maps, setup, images)),
        (
            "tags and maps together",
            by_plain_tags + by_plain_maps,
            seconds_an_image(tags_and_maps, setup, images),
        ),
    ]
    rows = [
        [name, f"{before:.3f}", f"{now:.3f}", f"{1 / now:.2f}", f"{before / now:.2f}"]
        for name, before, now in measured
    ]
    header = ["", "plain, s an image", "ours, s an image", "ours, images/s", "times as fast"]
    return f"## Stages, over {count} images\n\n" + markdown_table(header, rows)


def text(clip: ClipModel, tokenizer: Callable, count: int) -> str:
    """Returns how long class embeddings take: plainly, ours when cold, and ours from the disk."""
    templates = TEMPLATES["tagclip"]
    voc = yaml.safe_load(_VOC.read_text(encoding="utf-8"))["dataset"]
    every = [*voc["classes"], *voc["backgrounds"]]
    names = [every[k % len(every)] for k in range(count)]
    tokenizer(["a warm-up"])

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def embed_plainly() -> None:
        for name in names[:_PLAIN_NAMES]:
            plain.embed_name(clip, tokenizer, name, templates)

    def embed() -> np.ndarray:
        return class_embeddings(clip, tokenizer, names, templates).cpu().numpy()

    before = timed(embed_plainly) * len(names) / _PLAIN_NAMES
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        cold = timed(lambda: store.array("text", "key", embed))
        warm = timed(lambda: store.array("text", "key", embed))
    header = ["", "seconds", "times as fast"]
    rows = [
        [f"plain, from {_PLAIN_NAMES} of the names", f"{before:.1f}", "1"],
        ["ours, cold", f"{cold:.1f}", f"{before / cold:.1f}"],
        ["ours, from the disk", f"{warm:.4f}", ""],
    ]
    title = f"## Class embeddings of {len(names)} names × {len(templates)} prompts\n\n"
    return title + markdown_table(header, rows)


def growth(setup: Setup, size: tuple[int, int]) -> str:
    """Returns how tagging, without CWR's crops, grows with the image, classes and images."""
    keep_freed_memory()

    def without_crops(setup: Setup, images: list[np.ndarray]) -> None:
        build_tagger(setup, reidentify=False)(images)

    rows = []
    for side in (256, 384, 512, 768, 1024):
        now = seconds_an_image(without_crops, setup, load_photographs(3, side, side))
        rows.append([f"{side}×{side} pixels", f"{now:.3f}"])
    for count in (20, 40, 80, 171, 1000):
        now = seconds_an_image(without_crops, setup.with_names(count), load_photographs(4, *size))
        rows.append([f"{count} classes", f"{now:.3f}"])
    for count in (2, 4, 8):
        now = seconds_an_image(without_crops, setup, load_photographs(count, *size))
        rows.append([f"{count} images", f"{now:.3f}"])
    return "## Growth of tagging, without CWR\n\n" + markdown_table(["", "s an image"], rows)


def masks(size: tuple[int, int]) -> str:
    """Returns how long the stage ``masks`` takes with one process and with two."""
    rows, alone = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        root, store = Path(folder), Store(Path(folder) / "outputs")
        samples = []
        with store.folder("all", "cams", {}) as cams:
            for k, image in enumerate(load_photographs(_MASKS, *size)):
                samples.append(Sample(f"{k:03d}", root / f"{k:03d}.png"))
                samples[-1].image.write_bytes(encode_png(image))
                maps_of = np.random.default_rng(k).random((2, size[1] // 16, size[0] // 16))
                found = Cams(np.array([0, 1]), maps_of, size[::-1])
                cams.write(samples[-1].id, "input", {f"{samples[-1].id}.npz": encode_cams(found)})
        for workers in (1, 2):
            run = partial(_run_masks, cams=cams, workers=workers)
            run(samples[: 4 * workers], store.folder("all", "masks", {"warm-up": workers}))
            began = time.perf_counter()
            run(samples, store.folder("all", "masks", {"workers": workers}))
            seconds = (time.perf_counter() - began) / _MASKS
            alone = alone or seconds
            figures = (seconds, 1 / seconds, alone / seconds)
            rows.append([str(workers), *(f"{figure:.3f}" for figure in figures)])
    header = ["processes", "s an image", "images/s", "times as fast"]
    return "## Masks, two tags an image\n\n" + markdown_table(header, rows)


def _run_masks(samples: list[Sample], folder: StageFolder, cams: StageFolder, workers: int) -> None:
    options = PseudoMaskOptions()
    names = tuple((f"class {k}",) for k in range(2))
    vocabulary = Vocabulary(("class 0", "class 1"), names, names)
    stage = Masks(
        split="all",
        vocabulary=vocabulary,
        method=method_of(options),
        options=options,
        resources=Resources(vocabulary, "cpu", None, SimpleNamespace(crf_bgr=True, crf_fp16=True)),
        decode=ImageReader(),
    )
    items = [stage.item(sample, {"cams": cams}) for sample in samples]
    executor = Executor(ExecutorSettings(), workers)
    with folder:
        for _ in executor.compute(stage, {"cams": cams.path}, [folder], items):
            pass


def build_setup(
    clip: ClipModel,
    precision: torch.dtype,
    names: tuple[int, int],
    batch_size: int,
    crop_batch_size: int,
    *,
    beside_plain: bool,
) -> Setup:
    """Returns what is measured, with random class embeddings.

    Args:
        clip: the model, on its device.
        precision: of our image tower; the plain version's stays in float32.
        names: how many classes and backgrounds.
        batch_size: images that the backbone looks at together.
        crop_batch_size: crops that CWR classifies together.
        beside_plain: whether the plain version will run, too, which needs a CLIP of its own.
    """
    torch.manual_seed(0)
    plain_encoder = ClipEncoder(deepcopy(clip)) if beside_plain else None
    encoder = ClipEncoder(clip, precision=precision)
    embeddings = torch.randn(sum(names), encoder.visual.proj.shape[1], device=encoder.device)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    return Setup(encoder, embeddings, names[0], batch_size, crop_batch_size, plain_encoder)
