"""The demo and the crowded world: scenes that are rendered on first use and kept as PNG files."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.datasets.annotations import LabelImage
from pipeline.datasets.ground_truth import AnnotatedMask, MaskFile
from pipeline.datasets.mask_images import Reading
from pipeline.datasets.scenes import load_world, render_scene
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary, voc_palette
from pipeline.engine.pool import in_processes
from pipeline.engine.progress import track
from pipeline.engine.sample import Dataset, Sample, Splits
from pipeline.errors import UserError, shown
from pipeline.files.atomic import Complete, read_json, write_atomically
from pipeline.files.images import encode_png
from pipeline.files.label_images import IGNORE
from pipeline.files.text import given_path

_draws: ContextVar[bool] = ContextVar("draws", default=True)
"""Whether scenes that are missing are drawn."""


def load_demo(settings: DatasetSettings, workers: int = 1) -> Dataset[Vocabulary]:
    """Returns the splits of a world; the missing scenes of one are drawn, in processes, if asked.

    Labels and masks are known because the scenes are drawn; the pipeline only evaluates with them.
    They follow the vocabulary: an object whose name is not a class is background, and if the name
    of a ground is a class, its pixels are of that class. An interrupted rendering continues.

    ``root`` keeps the PNG files and nothing else. Raises a UserError if it is not a folder of these
    scenes alone, but, for example, one of photographs.
    """
    vocabulary = build_vocabulary(settings)
    world, classes = load_world(settings.name), vocabulary.classes
    given = given_path(settings.root, "dataset.root").absolute()
    root = given / f"v{world['version']}"
    strange = {name for name in _names(given) if not re.fullmatch(r"v\d+", name)}
    strange |= {*_names(root)} - {*world["splits"]}
    if strange or given.is_file():
        raise UserError(
            f"dataset.root={shown(settings.root)} holds other files than scenes of {settings.name}"
            f" ({shown(min(strange, default='a file'))}): did you mean dataset=folder?"
        )

    def read(split: str) -> list[Sample]:
        images = [root / split / f"{name}.png" for name in all_ids[split][: settings.limit]]
        missing = [image for image in images if _facts(image) is None]
        if missing and _draws.get():
            render = partial(_render, settings.name)
            with track(f"render the scenes of {split}", len(missing)) as advance:
                for scene, failure in in_processes(missing, render, workers):
                    if failure is not None:
                        raise UserError(f"{scene} was not rendered: {failure}")
                    advance()
        samples = []
        for image in images:
            facts = _facts(image) or {"ground": "", "labels": []}
            drawn = [facts["ground"], *world["classes"]]
            labels = [classes.index(n) + 1 if n in classes else 0 for n in drawn]
            present = {labels[0], *(labels[k + 1] for k in facts["labels"])} - {0}
            mask = image.with_suffix(".mask.png")
            truth = MaskFile(mask)
            if labels != list(range(len(drawn))):
                found = LabelImage(mask, Reading(values=dict(enumerate(labels)), other=IGNORE))
                truth = AnnotatedMask(image.stem, found)
            present = tuple(sorted(label - 1 for label in present))
            drawn = bool(facts["ground"])
            samples.append(Sample(image.stem, image, truth, present, is_there=drawn))
        return samples

    notes: tuple[str, ...] = ()
    if other := [shown(name) for name in world["classes"] if name not in classes]:
        are = "objects of the scenes that are not classes count as background"
        notes = (f"{are} in the ground truth: {', '.join(other)}",)
    counts = world["splits"].items()
    all_ids = {split: [f"{index:05d}" for index in range(count)] for split, count in counts}
    splits = Splits[Sample]({split: partial(read, split) for split in all_ids})
    return Dataset(vocabulary, splits, "train", notes=notes, all_ids=all_ids)


def _names(folder: Path) -> list[str]:
    return [p.name for p in folder.glob("[!.]*")] if folder.is_dir() else []


def _facts(image: Path) -> dict | None:
    """Returns the labels of a rendered scene, and its ground; none if it is incomplete."""
    return read_json(image.with_suffix(".json"), Complete(labels=[int], ground=str))


def _render(name: str, image: Path) -> None:
    """Writes image, mask and labels; the labels last, since they mark the scene as complete."""
    scene = render_scene(load_world(name), image.parent.name, int(image.stem))
    write_atomically(image, encode_png(scene.image))
    write_atomically(image.with_suffix(".mask.png"), encode_png(scene.mask, voc_palette(256)))
    facts = {"labels": [int(v) - 1 for v in np.unique(scene.mask) if v], "ground": scene.ground}
    write_atomically(image.with_suffix(".json"), json.dumps(facts))


@contextmanager
def without_drawing() -> Iterator[None]:
    """Draws no scenes while the block runs, so that a dry run writes nothing."""
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)
