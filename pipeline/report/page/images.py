"""The inputs of a report, and the figures of every image, by which it sorts and selects."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.cams.cams import Cams, read_cams
from pipeline.datasets.corrections import BySplit
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.kinds import CAMS, MASKS, PREDICTIONS, TAGS, label_kinds
from pipeline.engine.pool import prefetch
from pipeline.engine.progress import track
from pipeline.engine.results import Results
from pipeline.engine.sample import ImageReader, Sample
from pipeline.errors import ImageError, UserError
from pipeline.evaluation.about import About
from pipeline.evaluation.currency import MeasuredOn
from pipeline.evaluation.metrics import Confusion, as_number
from pipeline.masks.labels import label_pixels, read_pseudo_mask
from pipeline.report.page.settings import ReportSettings
from pipeline.report.tables.grouping import grouped
from pipeline.tags.scores import decode_scores

_MAX_PREFETCHED = 4
_ODD = (LookupError, TypeError)  # errors of artefacts with another shape, or with other classes

_UNREADABLE = (OSError, ImageError, UserError, ValueError, *_ODD)
"""Errors of missing, damaged or mismatched artefacts and ground truth."""

_MISFIT = "its results do not fit the class names: run the stages again"

Found = TypeVar("Found")
Layers = dict[str, np.ndarray]
"""The labels of an image, H×W uint8 each, as far as there are any: "truth", and the words of each
:class:`~pipeline.engine.kinds.Kind` such as "mask" and "unfiltered mask"."""


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of a report; there are no results of a stage that was not computed yet."""

    root: Path
    split: str  # whose images are shown
    samples: Sequence[Sample]
    vocabulary: Vocabulary
    read: ImageReader
    results: Mapping[str, Results]  # stage → what is shown of it, in the order of the pipeline
    stages: Sequence[Results] = ()  # all of the run, in the order of the pipeline
    threshold: Callable[[np.ndarray], float] | None = None
    """The threshold of an image's tags from its n float32 scores; none if scores do not decide."""
    certain: Sequence[float] = ()  # scores that leave no doubt, see pipeline.tags.stage.Tags
    beta: float | None = 1.0  # see pipeline.masks.labels.stack_background
    argmax_title: str | None = "mask before the CRF, argmax of the CAMs"  # none: it is the mask
    mask_title: str = "mask after the CRF"
    about: About = About()
    splits: Sequence[str] = ()  # all of the data set
    corrections: BySplit = field(default_factory=dict)  # all that the run was given
    remarks: Sequence[str] = ()  # what the stages say of their results, a sentence each
    now: Mapping[tuple[str, str, str], MeasuredOn | str] = field(default_factory=dict)
    """What figures would be measured on, see :class:`pipeline.evaluation.currency.Currency`."""
    command: str = ""  # the command line of the run
    workers: int = 1  # threads that read files
    settings: ReportSettings = field(default_factory=ReportSettings)

    def layers(self, sample: Sample) -> Layers:
        """Reads the labels of an image."""
        layers = {}
        for kind in label_kinds():
            results = self.results[kind.stage]
            if sample.id in results.entries:
                labels, unfiltered = read_pseudo_mask(results.path, sample.id)
                layers |= {kind.layer: labels, kind.unfiltered: unfiltered}
        if sample.mask is not None:
            layers["truth"] = sample.mask.read()
        return layers


@dataclass(frozen=True)
class ImageFigures:
    """One image in figures; what is not known is none.

    IoU is the mean over the labels of the image's ground truth, including the background, in
    [0, 1]; that of the pseudo mask is measured before the confidence filter.
    """

    sample: Sample
    tags: tuple[int, ...] | None = None  # class indices
    found: tuple[int, ...] | None = None  # those of the method, which may have been corrected
    copies: tuple[str, ...] = ()  # ids of all photographs of its content and tags, its own included
    truth: tuple[int, ...] | None = None  # indices of the classes that it shows
    scores: np.ndarray | None = None  # n float32
    threshold: float | None = None  # the score above which a class is a tag, if scores decide
    mask_iou: float | None = None
    prediction_iou: float | None = None
    doubt: float | None = None  # see tag_doubt and label_doubt; none once the tags were corrected
    disagreement: float | None = None  # the share of pixels in which mask and prediction differ
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """"tags", "truth", or the word of a kind such as "mask" → the classes that it has."""

    @property
    def iou(self) -> float | None:
        """The prediction's, or the mask's if there is no prediction."""
        return self.mask_iou if self.prediction_iou is None else self.prediction_iou


@dataclass
class Measured:
    """All images of a split for which anything was computed, in figures and in their order."""

    images: list[ImageFigures]
    confusions: dict[str, Confusion]  # stage → of its labels; empty without ground truth
    problems: dict[str, str] = field(default_factory=dict)  # id → why an image is missing


def measure_images(inputs: ReportInputs) -> Measured:
    """Measures the images of a split for which anything was computed, a few at a time."""
    num_labels = len(inputs.vocabulary.classes) + 1
    measured = Measured([], {kind.stage: Confusion(num_labels) for kind in label_kinds()})
    every, tags = inputs.results.values(), inputs.results[TAGS.stage]
    done = [s for s in inputs.samples if any(s.id in results.entries for results in every)]

    def content(sample: Sample) -> Hashable:
        # Photographs of equal content and tags are shown once, but those with ground truth.
        photograph = tags.photograph_of(sample.id)
        if sample.has_ground_truth or photograph is None:
            return sample.id
        return photograph, *tags.entries[sample.id]["tags"]

    copies = grouped(done, content).values()
    samples = [first for first, *_ in copies]
    ids = {same[0].id: tuple(sample.id for sample in same) for same in copies}

    def work(sample: Sample) -> tuple[ImageFigures, dict[str, Confusion]]:
        figures, confusions = _measure(sample, inputs)
        return replace(figures, copies=ids[sample.id]), confusions

    with track(f"report {inputs.split}", len(samples)) as advance:
        results = for_each_readable(samples, work, inputs.workers, measured.problems, advance)
        for figures, confusions in results:
            measured.images.append(figures)
            for name, confusion in confusions.items():
                measured.confusions[name].matrix += confusion.matrix
    return measured


def for_each_readable(
    samples: Iterable[Sample],
    work: Callable[[Sample], Found],
    workers: int,
    problems: dict[str, str],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Found]:
    """Yields the results of work on images, in order; ``workers`` threads compute a few in advance.

    ``problems`` receives id → reason of missing or damaged files; ``advance`` follows each image.
    """

    for sample, result in prefetch(samples, work, workers, _MAX_PREFETCHED, caught=_UNREADABLE):
        advance()
        if not isinstance(result, Exception):
            yield result
        elif isinstance(result, FileNotFoundError):
            missing = f"{result.filename} is missing: run the stage that writes it again"
            problems[sample.id] = missing
        elif isinstance(result, _ODD):
            problems[sample.id] = _MISFIT
        elif isinstance(result, OSError):
            problems[sample.id] = f"cannot be read: {result.strerror or result}"
        else:
            problems[sample.id] = str(result)


def _measure(sample: Sample, inputs: ReportInputs) -> tuple[ImageFigures, dict[str, Confusion]]:
    tags = found = scores = threshold = None
    if entry := inputs.results[TAGS.stage].entries.get(sample.id, {}):
        tags, scores = tuple(entry["tags"]), decode_scores(entry["scores"])
        found = tuple(entry.get("found", tags))
        threshold = inputs.threshold(scores) if inputs.threshold else None
    layers = inputs.layers(sample)
    truth = sample.ground_truth_labels if sample.has_ground_truth else None
    given, num_classes = {"tags": tags, "truth": truth}, len(inputs.vocabulary.classes)
    classes = {name: each for name, each in given.items() if each is not None}
    confusions = {}
    for kind in label_kinds():
        labels = layers.get(kind.unfiltered)
        confusions[kind.stage] = confuse(layers.get("truth"), labels, num_classes + 1)
        if labels is not None:
            present = np.setdiff1d(labels, 0).tolist()
            classes[kind.layer] = tuple(label - 1 for label in present)
    unknown = {*(found or ()), *chain(*classes.values())} - {*range(num_classes)}
    if unknown or scores is not None and len(scores) != num_classes:
        raise ImageError(_MISFIT)
    mask, prediction = (layers.get(kind.unfiltered) for kind in (MASKS, PREDICTIONS))
    doubt, cams = None, inputs.results[CAMS.stage]
    if "found" not in entry and threshold is not None:
        doubt = tag_doubt(np.append(scores, np.float32(inputs.certain)), threshold)
    elif "found" not in entry and mask is not None and sample.id in cams.entries:
        doubt = label_doubt(read_cams(cams.path / f"{sample.id}.npz"), mask, inputs.beta)
    figures = ImageFigures(
        sample=sample,
        tags=tags,
        found=found,
        truth=truth,
        scores=scores,
        threshold=threshold,
        mask_iou=as_number(confusions[MASKS.stage].miou()),
        prediction_iou=as_number(confusions[PREDICTIONS.stage].miou()),
        doubt=doubt,
        disagreement=_disagreement(mask, prediction),
        classes=classes,
    )
    return figures, confusions


def confuse(truth: np.ndarray | None, labels: np.ndarray | None, num_labels: int) -> Confusion:
    """Returns the confusion matrix of an image; without ground truth or labels, an empty one.

    Raises an ImageError if they do not fit.
    """
    confusion = Confusion(num_labels)
    if truth is not None and labels is not None:
        try:
            confusion.add(truth, labels)
        except ValueError as error:
            raise ImageError(f"ground truth and result do not fit: {error}") from error
    return confusion


def tag_doubt(scores: np.ndarray, threshold: float) -> float:
    """Returns how near the scores of an image's classes are to its threshold, in sum.

    A class at the threshold counts 1, the best and the worst class count 0, and a class between
    them √(1 − d), where d is its distance from the threshold as a share of theirs. The measure was
    chosen on the crowded world (docs/experiments.md): CAMs and masks add nothing to the scores.
    """
    distances = scores - threshold
    ends = np.where(distances > 0, scores.max() - threshold, threshold - scores.min())
    shares = np.clip(np.abs(distances) / np.maximum(ends, 1e-9), 0, 1)
    return float(np.sqrt(1 - shares).sum())


def label_doubt(cams: Cams, mask: np.ndarray, beta: float | None) -> float:
    """Returns the share of pixels where mask and CAMs differ, in [0, 1], if no score decides."""
    labels, _ = label_pixels(cams, mask.shape, beta)
    return _disagreement(mask, labels) or 0.0


def _disagreement(mask: np.ndarray | None, labels: np.ndarray | None) -> float | None:
    if mask is None or labels is None or mask.shape != labels.shape:
        return None
    return float((mask != labels).mean())
