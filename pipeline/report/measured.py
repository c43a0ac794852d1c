"""Figures of every image of a split, by which a report sorts, filters and selects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pipeline.engine.prefetch import prefetch
from pipeline.engine.progress import track
from pipeline.engine.sample import Sample
from pipeline.errors import ImageError, UserError
from pipeline.evaluation.metrics import Confusion
from pipeline.files.label_images import IGNORE, read_labels
from pipeline.masks.mask_files import UNFILTERED
from pipeline.report.material import Material
from pipeline.report.runs import as_number
from pipeline.tags.scores import decode_scores, read_tags

_MAX_PREFETCHED = 4

UNREADABLE = (OSError, ImageError, UserError, ValueError)
"""What missing, damaged or mismatched artefacts and ground truth raise."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Labels:
    """The labels of an image, H×W uint8 each, or none.

    ``unfiltered`` is the pseudo mask before the confidence filter, as it is measured.
    """

    mask: np.ndarray | None = None
    unfiltered: np.ndarray | None = None
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None


@dataclass(frozen=True)
class ImageFigures:
    """One image in figures; what is not known is none.

    IoU is the mean over the labels of the image's ground truth, including the background, in
    [0, 1]; that of the pseudo mask is measured before the confidence filter.
    """

    sample: Sample
    tags: tuple[int, ...] | None = None  # class indices
    truth: tuple[int, ...] | None = None  # indices of the classes that it shows
    scores: np.ndarray | None = None  # n float32
    threshold: float | None = None  # the score above which a class is a tag, if scores decide
    mask_iou: float | None = None
    prediction_iou: float | None = None
    disagreement: float | None = None  # the share of pixels in which mask and prediction differ
    classes: frozenset[int] = frozenset()  # in its tags, ground truth, mask or prediction

    @property
    def iou(self) -> float | None:
        """The prediction's, or the mask's if there is no prediction."""
        return self.mask_iou if self.prediction_iou is None else self.prediction_iou


@dataclass
class Measured:
    """All images of a split for which anything was computed, in figures and in their order."""

    images: list[ImageFigures]
    masks: Confusion  # pixels of ground truth and pseudo masks; empty without ground truth
    predictions: Confusion
    problems: dict[str, str] = field(default_factory=dict)  # id → why an image is missing


def measure_images(material: Material) -> Measured:
    """Measures the images of a split for which anything was computed, a few at a time."""
    num_labels = len(material.vocabulary.classes) + 1
    measured = Measured([], Confusion(num_labels), Confusion(num_labels))
    folders = [material.tags, material.cams, material.masks, material.predictions]
    samples = [s for s in material.samples if any(f and s.id in f.entries for f in folders)]
    with track(f"report {material.split}", len(samples)) as advance:
        results = for_each_readable(
            samples, lambda sample: _measure(sample, material), material, measured.problems, advance
        )
        for figures, masks, predictions in results:
            measured.images.append(figures)
            measured.masks.matrix += masks.matrix
            measured.predictions.matrix += predictions.matrix
    return measured


def for_each_readable(
    samples: Iterable[Sample],
    work: Callable[[Sample], Result],
    material: Material,
    problems: dict[str, str],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yields the results of work on images, in order, with a few computed in advance.

    Args:
        samples: the images.
        work: called in ``material.workers`` threads; images for which it raises one of
            ``UNREADABLE`` yield nothing.
        problems: receives id → reason for these images.
        advance: called after each image.
    """

    def attempt(sample: Sample) -> tuple[Result | None, str | None]:
        try:
            return work(sample), None
        except UNREADABLE as error:
            return None, _describe(error)

    for sample, (result, problem) in prefetch(samples, attempt, material.workers, _MAX_PREFETCHED):
        advance()
        if problem is not None:
            problems[sample.id] = problem
        else:
            yield result


def read_all_labels(sample: Sample, material: Material) -> Labels:
    """Reads the labels of an image, as far as there are any."""
    mask = unfiltered = prediction = None
    name = f"{sample.id}.png"
    if sample.id in material.masks.entries:
        mask = unfiltered = read_labels(material.masks.path / name)
        if (path := material.masks.path / UNFILTERED / name).is_file():
            unfiltered = read_labels(path)
    if material.predictions is not None and sample.id in material.predictions.entries:
        prediction = read_labels(material.predictions.path / name)
    truth = None if sample.mask is None else sample.mask.read()
    return Labels(mask, unfiltered, prediction, truth)


def _measure(sample: Sample, material: Material) -> tuple[ImageFigures, Confusion, Confusion]:
    tags = scores = threshold = None
    if sample.id in material.tags.entries:
        tags = read_tags(material.tags, sample)
        scores = decode_scores(material.tags.entries[sample.id]["scores"]["scores"])
        threshold = material.threshold(scores) if material.threshold else None
    labels = read_all_labels(sample, material)
    truth = sample.ground_truth_labels if sample.has_ground_truth else None
    masks = _compare(labels.truth, labels.unfiltered, material)
    predictions = _compare(labels.truth, labels.prediction, material)
    classes = {*(tags or ()), *(truth or ())}
    for of_image in (labels.unfiltered, labels.prediction):
        if of_image is not None:
            classes |= {label - 1 for label in np.unique(of_image).tolist()} - {-1, IGNORE - 1}
    figures = ImageFigures(
        sample=sample,
        tags=tags,
        truth=truth,
        scores=scores,
        threshold=threshold,
        mask_iou=as_number(masks.miou()),
        prediction_iou=as_number(predictions.miou()),
        disagreement=_disagreement(labels.unfiltered, labels.prediction),
        classes=frozenset(classes),
    )
    return figures, masks, predictions


def _compare(truth: np.ndarray | None, labels: np.ndarray | None, material: Material) -> Confusion:
    confusion = Confusion(len(material.vocabulary.classes) + 1)
    if truth is None or labels is None:
        return confusion
    if truth.shape == labels.shape:
        # A mask of which only the filtered version is stored is measured without ignored pixels.
        truth = np.where(labels == IGNORE, np.uint8(IGNORE), truth)
    try:
        confusion.add(truth, labels)
    except ValueError as error:
        raise ImageError(f"ground truth and result do not fit: {error}") from error
    return confusion


def _disagreement(mask: np.ndarray | None, prediction: np.ndarray | None) -> float | None:
    if mask is None or prediction is None or mask.shape != prediction.shape:
        return None
    counted = mask != IGNORE
    return float((mask != prediction)[counted].mean()) if counted.any() else None


def _describe(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is missing: run the stage that writes it again"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
