"""How long the stage ``masks`` takes, alone and in one pass with the stages before it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
from skimage.filters import gaussian

from pipeline.cams.cams import Cams
from pipeline.engine.executors import ExecutorSettings
from pipeline.engine.run import Run
from pipeline.engine.stage import Decoded, Item
from pipeline.engine.workers import Executor
from pipeline.files.images import encode_png
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.stage import ScoredTags, Tags
from tools.benchmark.setup import TAGS, load_photographs, section, timed

_IMAGES, _FEW = 64, 8
_GPU_SECONDS = 0.03
"""An image takes so long in the stand-in for a GPU, which sleeps."""


def masks(size: tuple[int, int]) -> str:
    """Returns how long the CRF takes with one process and with several, and with a GPU's work.

    A stand-in sleeps as long as a GPU takes for tags and CAMs. It takes its turn before the CRF,
    and then one pass with it.
    """
    cores = joblib.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        for k, image in enumerate(load_photographs(_IMAGES, *size)):
            # Equal photographs are told apart by a pixel, since equal ones share their results.
            image = image.copy()
            image[0, 0] = divmod(k, 256) + (0,)
            (photographs / f"{k:03d}.png").write_bytes(encode_png(image))
        run = partial(_run, photographs)
        few, alone, together = (Path(folder, name) for name in ("few", "alone", "together"))
        run(few, ["tags", "cams"], 1, limit=_FEW)
        one_process = timed(partial(run, few, ["masks"], 1, limit=_FEW)) / _FEW
        before = timed(partial(run, alone, ["tags", "cams"], cores)) / _IMAGES
        everything = ["tags", "cams", "masks"]
        run(Path(folder, "warm"), everything, cores, limit=_FEW)  # starts the processes
        crf = timed(partial(run, alone, ["masks"], cores)) / _IMAGES
        one_pass = timed(partial(run, together, everything, cores, one_pass=True)) / _IMAGES
    rows = [
        ["CRF, one process", one_process],
        [f"CRF, {cores} processes", crf],
        ["stand-in for a GPU: tags and CAMs", before],
        ["one after the other", before + crf],
        ["in one pass", one_pass],
    ]
    shown = [[name, f"{s:.3f}", f"{1 / s:.2f}", f"{s / crf:.2f}"] for name, s in rows]
    header = ["", "s/image", "images/s", f"× CRF, {cores} processes"]
    return section("Masks, two tags an image", header, shown)


def _run(
    photographs: Path,
    output: Path,
    commands: list[str],
    workers: int,
    *,
    one_pass: bool = False,
    limit: int | None = None,
) -> None:
    """Computes stages of photographs; tags and CAMs come from the stand-in."""
    names = ",".join(f"class {k}" for k in range(20))
    given = [f"dataset.root={photographs}", f"dataset.classes=[{names}]", f"output_dir={output}"]
    given.append(f"dataset.limit={limit or 'null'}")
    config = read_config(compose(["dataset=folder", "clip=demo", *given]))
    pipeline = Pipeline.open(config)
    builder, executor = pipeline.builder, Executor(ExecutorSettings(), workers, one_pass=one_pass)
    stages = [_StandIn.of(s) if isinstance(s, ScoredTags) else s for s in pipeline.stages(commands)]
    with Run(builder.images, builder.store, executor) as run:
        for _ in run.compute(stages):
            pass


class _StandIn(ScoredTags):
    """Tags of a model that sleeps."""

    statistics = Tags.statistics  # without the names that CLIP confuses

    @classmethod
    def of(cls, tags: ScoredTags) -> _StandIn:
        """Returns a stage like ``tags``, whose pass has CAMs for its rider."""
        if tags.rider is not None:
            cams_of_pass = SimpleNamespace(hooks=list, cams_of_pass=lambda cams, tags: cams)
            vars(tags.rider)["pass_method"] = cams_of_pass
        return cls(**{each.name: getattr(tags, each.name) for each in fields(tags)})

    def load(self, inputs: Any) -> SimpleNamespace:  # noqa: ANN401
        """Returns what stands in for the tagger."""
        return SimpleNamespace(stream=_stream)


def _stream(images: Decoded, variants: Any, **_: Any) -> Iterator[tuple[Item, Any]]:  # noqa: ANN401
    scores = np.zeros(20, np.float32)
    scores[list(TAGS)] = 1
    for item, image in images:
        time.sleep(_GPU_SECONDS)
        cams = random_cams(image.shape[1::-1], seed=0).cams
        yield item, SimpleNamespace(scores={"scores": scores}, shared_pass=cams)


def random_cams(size: tuple[int, int], seed: int) -> Cams:
    """Returns two CAMs of an image of width and height ``size``, as smooth as CAMs are."""
    noise = np.random.default_rng(seed).random((len(TAGS), size[1] // 16, size[0] // 16))
    smooth = np.stack([gaussian(each, 3) for each in noise])
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return Cams(np.array(TAGS), smooth.astype(np.float16), size[::-1])
