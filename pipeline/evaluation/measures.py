"""What is measured of scores, CAMs, pseudo masks and predictions; none without ground truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.cams.cams import read_cams
from pipeline.datasets.vocabulary import BACKGROUND, Vocabulary
from pipeline.engine.progress import track
from pipeline.engine.sample import Sample
from pipeline.engine.store import StageFolder
from pipeline.errors import UserError
from pipeline.evaluation.metrics import (
    Confusion,
    TaggingMetrics,
    merge_classes,
    tagging_metrics,
    to_indicator,
)
from pipeline.files.label_images import IGNORE, read_labels
from pipeline.masks.labels import stack_background, to_labels
from pipeline.masks.mask_files import UNFILTERED
from pipeline.segmenter.stage import variant_path
from pipeline.tags.scores import read_scores, read_tags
from pipeline.tags.tagclip import VARIANTS


@dataclass(frozen=True)
class Results:
    """The results of a stage on a split.

    Attributes:
        unusable: receives id → reason, for the images whose ground truth cannot be used; figures
            count them as "left_out".
    """

    samples: Sequence[Sample]
    folder: StageFolder
    vocabulary: Vocabulary
    unusable: dict[str, str] = field(default_factory=dict)


def evaluate_tags(results: Results) -> dict | None:
    """Measures the scores, the tags and every variant."""
    folder, vocabulary = results.folder, results.vocabulary
    wanted = [s for s in results.samples if s.has_ground_truth and s.id in folder.entries]
    labels = {}
    for sample in wanted:
        try:
            labels[sample.id] = sample.ground_truth_labels
        except UserError as error:
            results.unusable[sample.id] = str(error)
    if not labels:
        return None
    num_classes = len(vocabulary.classes)
    positive = to_indicator(list(labels.values()), num_classes)
    tags = to_indicator([read_tags(folder, s) for s in wanted if s.id in labels], num_classes)
    scores = read_scores(folder, labels)
    variants = {}
    for name in VARIANTS:
        if (of_variant := read_scores(folder, labels, name)) is not None:
            variants[name] = {"map": tagging_metrics(of_variant, positive).map}
    levels = []
    for names in vocabulary.levels:
        coarse, groups = _groups(names)
        merged = (merge_classes(values, groups) for values in (scores, positive, tags))
        levels.append(_tagging_figures(tagging_metrics(*merged), coarse))
    return {
        "images": len(labels),
        "left_out": len(wanted) - len(labels),
        **_tagging_figures(tagging_metrics(scores, positive, tags), vocabulary.classes),
        "variants": variants,
        **({"levels": levels} if levels else {}),
    }


def evaluate_cams(
    results: Results, betas: Sequence[float | None], float16: bool = False
) -> dict | None:
    """Measures the argmax of the CAMs and the background, before any CRF.

    With several β of the background each is measured, and the figures are those of the best, which
    the ground truth chooses (as for the figure that CLIP-ES publishes of its CAMs); they say so.
    ``float16`` is the quirk ``float16_argmax``.
    """

    def labels_by_beta(sample: Sample) -> list[np.ndarray]:
        cams = read_cams(results.folder.path / f"{sample.id}.npz")
        resized = cams.resized(*cams.size).astype(np.float16 if float16 else np.float32)
        alternatives = []
        for beta in betas:
            scores = stack_background(resized, beta)
            # Without a background and without tags there is nothing to choose from.
            channels = scores.argmax(0) if len(scores) else np.zeros(cams.size, int)
            background = beta is not None or not len(scores)
            alternatives.append(to_labels(channels, cams.keys, background=background))
        return alternatives

    alternatives = _evaluate(results, labels_by_beta)
    if not alternatives:
        return None
    by_beta = dict(zip(betas, alternatives))
    best = max(by_beta, key=lambda beta: by_beta[beta]["miou"])
    if len(by_beta) == 1:
        return by_beta[best]
    return {
        **by_beta[best],
        "background_beta": best,
        "chosen_by_ground_truth": {str(beta): f["miou"] for beta, f in by_beta.items()},
    }


def evaluate_masks(results: Results) -> dict | None:
    """Measures the masks before the confidence filter, and the share of pixels that it keeps."""
    path, kept = results.folder.path, {}

    def labels_of(sample: Sample) -> list[np.ndarray]:
        labels = read_labels(path / f"{sample.id}.png")
        kept[sample.id] = (labels != IGNORE).mean()
        unfiltered = path / UNFILTERED / f"{sample.id}.png"
        return [read_labels(unfiltered) if unfiltered.is_file() else labels]

    measured = _evaluate(results, labels_of)
    if not measured:
        return None
    shares = [share for image_id, share in kept.items() if image_id not in results.unusable]
    return {**measured[0], "kept": float(np.mean(shares))}


def evaluate_predictions(
    results: Results, steps: Sequence[str], ceiling: StageFolder | None
) -> dict | None:
    """Measures the segmenter's predictions, and variants of them.

    The variants are those of the ``steps`` of testing before the last (single scale, several
    scales), and the fully supervised predictions in the folder ``ceiling``.
    """
    names = ["{}.png", *(variant_path(step, "{}") for step in steps)]

    def measure(results: Results, names: Sequence[str]) -> list[dict]:
        def labels_of(sample: Sample) -> list[np.ndarray]:
            paths = [results.folder.path / name.replace("{}", sample.id) for name in names]
            return [read_labels(path) for path in paths]

        return _evaluate(results, labels_of)

    measured = measure(results, names)
    if not measured:
        return None
    result, *before = measured
    variants = dict(zip(steps, before))
    if ceiling is not None:
        variants |= zip(["ceiling"], measure(replace(results, folder=ceiling), names[:1]))
    result["variants"] = {name: {"miou": figures["miou"]} for name, figures in variants.items()}
    return result


def _evaluate(results: Results, labels_of: Callable[[Sample], list[np.ndarray]]) -> list[dict]:
    """Returns the figures of each alternative that ``labels_of`` returns for every image."""
    folder, vocabulary = results.folder, results.vocabulary
    wanted = [s for s in results.samples if s.mask is not None and s.id in folder.entries]
    measured = 0
    confusions: list[Confusion] = []
    with track(f"evaluate {folder.stage} {folder.split}", len(wanted)) as advance:
        for sample in wanted:
            alternatives = labels_of(sample)
            try:
                truth = sample.mask.read()
                _refuse_misfit(truth, alternatives)
            except UserError as error:
                results.unusable[sample.id] = str(error)
            else:
                confusions = confusions or [
                    Confusion(len(vocabulary.classes) + 1) for _ in alternatives
                ]
                for confusion, labels in zip(confusions, alternatives):
                    confusion.add(truth, labels)
                measured += 1
            advance()
    counts = {"images": measured, "left_out": len(wanted) - measured}
    return [{**counts, **_by_level(confusion, vocabulary)} for confusion in confusions]


def _refuse_misfit(truth: np.ndarray, alternatives: Sequence[np.ndarray]) -> None:
    for labels in alternatives:
        if labels.shape != truth.shape:
            (height, width), (rows, columns) = labels.shape, truth.shape
            raise UserError(
                f"its ground-truth mask has {columns}×{rows} pixels and the image"
                f" {width}×{height}: replace the mask"
            )


def _by_level(confusion: Confusion, vocabulary: Vocabulary) -> dict:
    """Returns the figures of the classes and, where they have parents, of those above them."""
    levels = []
    for names in vocabulary.levels:
        coarse, groups = _groups((BACKGROUND, *names))
        levels.append(_segmentation_figures(confusion.merged(groups), coarse))
    return {
        **_segmentation_figures(confusion, (BACKGROUND, *vocabulary.classes)),
        **({"levels": levels} if levels else {}),
    }


def _groups(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns the different names in order, and the index of each name among them."""
    coarse = list(dict.fromkeys(names))
    return coarse, [coarse.index(name) for name in names]


def _tagging_figures(measured: TaggingMetrics, classes: Sequence[str]) -> dict:
    rows = zip(classes, measured.average_precision, measured.positives)
    return {
        "map": measured.map,
        "f1": measured.f1,
        "precision": measured.precision,
        "recall": measured.recall,
        "classes_without_positives": int((measured.positives == 0).sum()),
        "per_class": {name: {"ap": float(ap), "positives": int(n)} for name, ap, n in rows},
    }


def _segmentation_figures(confusion: Confusion, names: Sequence[str]) -> dict:
    per_class = {
        name: {"iou": None if math.isnan(iou) else float(iou)}
        for name, iou in zip(names, confusion.iou())
    }
    return {"miou": confusion.miou(), "per_class": per_class}
