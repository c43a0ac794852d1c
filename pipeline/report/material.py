"""What a report is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.sample import ImageReader, Sample
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.store import StageFolder
from pipeline.keys import describe
from pipeline.project import Project
from pipeline.rounds import NextRound

Threshold = Callable[[np.ndarray], float]
"""n float32 scores of an image → what a score must exceed to be a tag."""


@dataclass(frozen=True)
class Material:
    """What a report is made from; whatever was not computed yet is an empty folder, or none.

    Attributes:
        root: the output folder.
        split: the split whose images are shown.
        samples: its images.
        vocabulary: class names and palette.
        read: decodes the images.
        tags: the folder of their tags.
        cams: the folder of their maps.
        masks: the folder of their masks.
        predictions: the folder of their predictions; none before there is a segmenter.
        stages: every folder of the run, of all splits, in the order of the pipeline.
        threshold: how tags were chosen; none where they were not chosen by their scores.
        beta: β of the background, see :func:`pipeline.masks.labels.stack_background`.
        argmax_title: what the argmax of the maps is called; none where that is the mask.
        mask_title: what the masks are called.
        about: the choices that have names, see :func:`pipeline.keys.describe`.
        workers: threads that read files.
        most_images: images that are shown at most; none shows all.
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
    threshold: Threshold | None = None
    beta: float | None = 1.0
    argmax_title: str | None = "mask before the CRF, argmax of the maps"
    mask_title: str = "mask after the CRF"
    about: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    most_images: int | None = 200
    longest_side: int = 480


def gather(project: Project) -> Material:
    """Returns what a project's report is made from: the last split of which anything was computed.

    Args:
        project: that of the last round.
    """
    rounds = [project]
    while isinstance(rounds[0], NextRound):
        rounds.insert(0, rounds[0].previous)
    folders = {folder.path: folder for one in rounds for folder in _folders(one)}
    done = [folder.split for folder in folders.values() if folder.entries]
    split = next((s for s in reversed(project.splits) if s in done), project.splits[-1])
    trained = project.find_trained()
    config = project.config
    return Material(
        root=project.store.root,
        split=split,
        samples=project.samples(split),
        vocabulary=project.vocabulary,
        read=project.reader,
        tags=project.tags_folder(split),
        cams=rounds[0].cams_folder(split),
        masks=project.masks_folder(split),
        predictions=trained and project.predictions_folder(split),
        stages=list(folders.values()),
        threshold=find_threshold(config, project.round),
        beta=config["masks"]["beta"],
        **_titles(project),
        about=describe(config, "predictions"),
        workers=project.method.workers,
        most_images=config["report"]["images"],
        longest_side=config["report"]["longest_side"],
    )


def _titles(project: Project) -> dict[str, str | None]:
    """Returns what the masks of a round, and the maps' argmax, are called."""
    if project.round > 1:
        argmax = "argmax of the first round's maps"
        return {"argmax_title": argmax, "mask_title": "mask, seen by the segmenter before"}
    if project.config["masks"]["crf"]:
        return {}
    return {"argmax_title": None, "mask_title": "mask, argmax of the maps"}


def _folders(project: Project) -> Iterator[StageFolder]:
    """Yields the folders of a round, of all splits, in the order of the pipeline."""
    for make in (project.tags_folder, project.cams_folder, project.masks_folder):
        yield from map(make, project.splits)
    networks = [False, True] if project.has_ceiling else [False]
    networks = [ceiling for ceiling in networks if project.find_trained(ceiling) is not None]
    yield from map(project.segmenter_folder, networks)
    for ceiling in networks:
        yield from (project.predictions_folder(split, ceiling) for split in project.splits)


def find_threshold(config: Mapping[str, Any], round_number: int) -> Threshold | None:
    """Returns how a run's tags follow from their scores.

    Args:
        config: the whole configuration.
        round_number: of self-training, from 1.

    Returns:
        None where tags are given, or are those of the first round.
    """
    if round_number > 1:
        settings = config["self_training"]
        return None if settings["keep_tags"] else lambda scores: settings["tag_threshold"]
    tags = config["tags"]
    if tags["method"] in ("ground_truth", "file"):
        return None

    def above(scores: np.ndarray) -> float:
        low, high = float(scores.min()), float(scores.max())
        return max(low + tags["alpha"] * (high - low), tags["min_score"])

    return above
