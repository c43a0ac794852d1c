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

_SHOWN = "a report shows results and changes none"


@dataclass
class ReportSettings:
    """How much ``report.html`` shows.

    Attributes:
        images: the maximum number of images; of more, the worst, the best, those in which mask and
            prediction differ most, and an even sample; none shows all.
        longest_side: of the pictures, in pixels.
    """

    images: int | None = setting(200, at_least=1, changes="nothing", why=_SHOWN)
    longest_side: int = setting(480, at_least=1, changes="nothing", why=_SHOWN)


@dataclass(frozen=True)
class Material:
    """What a report is made from; whatever was not computed yet is an empty folder, or none.

    Attributes:
        root: the output folder.
        split: the split whose images are shown.
        stages: every folder of the run, of all splits, in the order of the pipeline.
        threshold: returns what a score must exceed to be a tag, from the n float32 scores of an
            image; none where tags were not chosen by their scores.
        beta: β of the background, see :func:`pipeline.masks.labels.stack_background`.
        argmax_title: the name of the argmax of the CAMs; none where that is the mask.
        about: the choices that have names, see :func:`pipeline.evaluation.about.describe`.
        workers: threads that read files.
        max_images: images that are shown at most; none shows all.
        longest_side: of the pictures, in pixels.
    """

    root: Path
    split: str
    samples: Sequence[Sample]
    vocabulary: Vocabulary
    read: ImageReader
    tags: StageFolder
    cams: StageFolder
    masks: StageFolder
    predictions: StageFolder | None = None
    stages: Sequence[StageFolder] = ()
    threshold: Callable[[np.ndarray], float] | None = None
    beta: float | None = 1.0
    argmax_title: str | None = "mask before the CRF, argmax of the CAMs"
    mask_title: str = "mask after the CRF"
    about: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    max_images: int | None = 200
    longest_side: int = 480


def gather(
    stages: Sequence[Stage],
    reviewed: Evaluation,
    settings: ReportSettings,
    read: ImageReader,
    workers: int,
) -> Material:
    """Returns what a report is made from: the last split of which anything was computed.

    Args:
        stages: those of all rounds.
        reviewed: the evaluation of the last round.
        settings: those of the report.
        read: decodes the images.
        workers: the number of threads that read files.
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


_EMPTY = StageFolder(Path(), "", "", "", {})
"""Stands for a folder whose key is not known yet."""


def _titles(masks: Stage) -> dict[str, str | None]:
    if masks.round > 1:
        argmax = "argmax of the first round's CAMs"
        return {"argmax_title": argmax, "mask_title": "mask, seen by the segmenter before"}
    if getattr(masks.options, "crf", True):
        return {}
    return {"argmax_title": None, "mask_title": "mask, argmax of the CAMs"}
