"""What a report is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import ImageReader, Sample
from pipeline.engine.settings import setting
from pipeline.engine.stage import Stage
from pipeline.engine.store import StageFolder
from pipeline.evaluation.stage import Evaluation

_EMPTY = StageFolder(Path(), "", "", "", {})
"""Stands for a folder whose key is not known yet."""

_SHOWN = "a report shows results and changes none"


@dataclass
class ReportSettings:
    """How much ``report.html`` shows: the number of images, and their longest side in pixels.

    Of more images it shows the worst, the best, those in which mask and prediction differ most, and
    an even sample; none shows all.
    """

    images: int | None = setting(200, at_least=1, changes="nothing", why=_SHOWN)
    longest_side: int = setting(480, at_least=1, changes="nothing", why=_SHOWN)


@dataclass(frozen=True)
class Material:
    """What a report is made from; whatever was not computed yet is an empty folder, or none."""

    root: Path
    split: str  # whose images are shown
    samples: Sequence[Sample]
    vocabulary: Vocabulary
    read: ImageReader
    tags: StageFolder
    cams: StageFolder
    masks: StageFolder
    predictions: StageFolder | None = None
    stages: Sequence[StageFolder] = ()  # all of the run, in the order of the pipeline
    threshold: Callable[[np.ndarray], float] | None = None
    """What a score must exceed to be a tag, from an image's n float32 scores; none if scores do not
    decide."""
    beta: float | None = 1.0  # see pipeline.masks.labels.stack_background
    argmax_title: str | None = "mask before the CRF, argmax of the CAMs"  # none: it is the mask
    mask_title: str = "mask after the CRF"
    about: Mapping[str, str] = field(default_factory=dict)  # see pipeline.evaluation.about.describe
    workers: int = 1  # threads that read files
    max_images: int | None = 200  # none shows all
    longest_side: int = 480  # of the pictures, in pixels


def gather(
    stages: Sequence[Stage],
    reviewed: Evaluation,
    settings: ReportSettings,
    read: ImageReader,
    workers: int,
) -> Material:
    """Returns what a report is made from: the last split of which anything was computed.

    ``stages`` are those of all rounds, and ``reviewed`` is the evaluation of the last one.
    """
    every = [each for stage in stages if stage.applies() for each in (*stage.parts, stage)]
    folders = {each: folder for each in every if (folder := reviewed.folder(each)) is not None}
    folders = {each: f for each, f in folders.items() if each.kind != "network" or f.manifest()}
    splits = list(dict.fromkeys(each.split for each in every if each.split))
    done = {each.split for each, folder in folders.items() if folder.entries}
    split = next((s for s in reversed(splits) if s in done), splits[-1])

    def newest(kind: str) -> Stage | None:
        own = [s for s in every if s.kind == kind and s.split == split and not s.accompanies]
        return max(own, key=lambda stage: stage.round, default=None)

    kinds = ("scores", "cams", "pseudo masks", "predictions")
    tags, cams, masks, predictions = map(newest, kinds)
    return Material(
        root=reviewed.store.root,
        split=split,
        samples=reviewed.images.of(split),
        vocabulary=reviewed.vocabulary,
        read=read,
        tags=folders.get(tags) or _EMPTY,
        cams=folders.get(cams) or _EMPTY,
        masks=folders.get(masks) or _EMPTY,
        predictions=folders.get(predictions),
        stages=list({folder.path: folder for folder in folders.values()}.values()),
        threshold=tags.threshold,
        beta=getattr(masks.options, "beta", 1.0),
        **_titles(masks),
        about=reviewed.describe(predictions),
        workers=workers,
        max_images=settings.images,
        longest_side=settings.longest_side,
    )


def _titles(masks: Stage) -> dict[str, str | None]:
    if masks.round > 1:
        argmax = "argmax of the first round's CAMs"
        return {"argmax_title": argmax, "mask_title": "mask, seen by the segmenter before"}
    if getattr(masks.options, "crf", True):
        return {}
    return {"argmax_title": None, "mask_title": "mask, argmax of the CAMs"}
