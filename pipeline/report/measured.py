"""What every image of a split is worth: how a report sorts, filters and chooses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.datasets.sample import Sample
from pipeline.datasets.vocabulary import IGNORE
from pipeline.engine.batches import ahead
from pipeline.engine.progress import track
from pipeline.engine.store import StageFolder
from pipeline.errors import ImageError, UserError
from pipeline.evaluation.segmentation import Confusion
from pipeline.files.label_images import read_labels
from pipeline.masks.stage import UNFILTERED
from pipeline.report.material import Material
from pipeline.tags.stage import decode_scores, read_tags

_MOST_AHEAD = 4

UNREADABLE = (OSError, ImageError, UserError, ValueError)
"""What artefacts and ground truth that are missing, damaged or do not fit lead to."""


@dataclass(frozen=True)
class ImageFigures:
    """One image in figures.

    Attributes:
        sample: the image.
        tags: class indices; none where it was not tagged.
        truth: class indices that it shows; none where that is not known.
        scores: n float32; none where it was not tagged.
        threshold: what a score must exceed to be a tag; none where scores do not decide.
        mask_iou: of its pseudo mask before the confidence filter, in [0, 1]: the mean over the
            labels of its ground truth, the background among them.
        prediction_iou: the same of the segmenter's prediction.
        disagreement: the share of the pixels in which mask and prediction differ.
        classes: class indices that are in its tags, ground truth, mask or prediction.
    """

    sample: Sample
    tags: tuple[int, ...] | None = None
    truth: tuple[int, ...] | None = None
    scores: np.ndarray | None = None
    threshold: float | None = None
    mask_iou: float | None = None
    prediction_iou: float | None = None
    disagreement: float | None = None
    classes: frozenset[int] = frozenset()

    @property
    def iou(self) -> float | None:
        """The prediction's, or the mask's where there is no prediction."""
        return self.mask_iou if self.prediction_iou is None else self.prediction_iou


@dataclass
class Measured:
    """All images of a split in figures.

    Attributes:
        images: those of which anything was computed, in the order of the split.
        masks: pixels of ground truth and pseudo masks; empty without ground truth.
        predictions: pixels of ground truth and predictions; the same.
        problems: id → why an image is not among them.
    """

    images: list[ImageFigures]
    masks: Confusion
    predictions: Confusion
    problems: dict[str, str] = field(default_factory=dict)


def measure_images(material: Material) -> Measured:
    """Measures the images of a split of which anything was computed, a few at a time."""
    count = len(material.vocabulary.classes) + 1
    measured = Measured([], Confusion(count), Confusion(count))
    folders = [material.tags, material.cams, material.masks, material.predictions]
    there = [s for s in material.samples if any(f and s.id in f.entries for f in folders)]

    def measure(sample: Sample) -> tuple[ImageFigures, list[Confusion]] | str:
        try:
            return _measure(sample, material)
        except UNREADABLE as error:
            return describe_problem(error)

    with track(f"report {material.split}", len(there)) as advance:
        for sample, found in ahead(there, measure, material.workers, _MOST_AHEAD):
            advance()
            if isinstance(found, str):
                measured.problems[sample.id] = found
                continue
            figures, (masks, predictions) = found
            measured.images.append(figures)
            measured.masks.matrix += masks.matrix
            measured.predictions.matrix += predictions.matrix
    return measured


def describe_problem(error: Exception) -> str:
    """Returns why an image cannot be shown, with the remedy where that is known."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is missing: run the stage that writes it again"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


def read_mask_labels(folder: StageFolder, image_id: str) -> np.ndarray:
    """Returns a pseudo mask before the confidence filter, as it is measured: H×W uint8."""
    unfiltered = folder.path / UNFILTERED / f"{image_id}.png"
    return read_labels(unfiltered if unfiltered.is_file() else folder.path / f"{image_id}.png")


def _measure(sample: Sample, material: Material) -> tuple[ImageFigures, list[Confusion]]:
    masks, predictions = material.masks, material.predictions
    tags = scores = threshold = None
    if sample.id in material.tags.entries:
        tags = read_tags(material.tags, sample)
        scores = decode_scores(material.tags.entries[sample.id]["scores"]["scores"])
        threshold = material.threshold(scores) if material.threshold else None
    mask = read_mask_labels(masks, sample.id) if sample.id in masks.entries else None
    prediction = None
    if predictions is not None and sample.id in predictions.entries:
        prediction = read_labels(predictions.path / f"{sample.id}.png")
    truth = None if sample.mask is None else sample.mask.read()
    known = sample.ground_truth_labels if sample.has_ground_truth else None
    confusions = [_compare(truth, labels, material) for labels in (mask, prediction)]
    found = {*(tags or ()), *(known or ()), *_classes_in(mask), *_classes_in(prediction)}
    figures = ImageFigures(
        sample=sample,
        tags=tags,
        truth=known,
        scores=scores,
        threshold=threshold,
        mask_iou=_mean_iou(confusions[0]),
        prediction_iou=_mean_iou(confusions[1]),
        disagreement=_disagreement(mask, prediction),
        classes=frozenset(found),
    )
    return figures, confusions


def _compare(truth: np.ndarray | None, labels: np.ndarray | None, material: Material) -> Confusion:
    confusion = Confusion(len(material.vocabulary.classes) + 1)
    if truth is None or labels is None:
        return confusion
    if truth.shape == labels.shape:
        # What is ignored in a mask that is stored filtered alone is no label to measure.
        truth = np.where(labels == IGNORE, np.uint8(IGNORE), truth)
    try:
        confusion.add(truth, labels)
    except ValueError as error:
        raise ImageError(f"ground truth and result do not fit: {error}") from error
    return confusion


def _mean_iou(confusion: Confusion) -> float | None:
    value = confusion.miou()
    return None if math.isnan(value) else value


def _classes_in(labels: np.ndarray | None) -> Sequence[int]:
    if labels is None:
        return ()
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=IGNORE + 1)[1:IGNORE])
    return found.tolist()


def _disagreement(mask: np.ndarray | None, prediction: np.ndarray | None) -> float | None:
    if mask is None or prediction is None or mask.shape != prediction.shape:
        return None
    counted = mask != IGNORE
    return float((mask != prediction)[counted].mean()) if counted.any() else None
