"""The stage ``evaluate``: measures whatever artefacts and ground truth there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.cams.cams import Cams, read_cams
from pipeline.datasets.vocabulary import BACKGROUND, Vocabulary
from pipeline.engine.progress import track
from pipeline.engine.sample import Sample
from pipeline.engine.store import StageFolder
from pipeline.errors import UserError
from pipeline.evaluation.segmentation import Confusion
from pipeline.evaluation.tagging import (
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

Unusable = dict[str, str]
"""Id → reason, of the images whose ground truth cannot be used; the others are measured."""


def evaluate_tags(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    unusable: Unusable | None = None,
) -> dict | None:
    """Measures the scores, the tags and every variant; none without labelled images.

    Args:
        samples: the images of a split.
        folder: their tags.
        vocabulary: the class names.
        unusable: images whose ground truth turns out to be are added to it; the figures say as
            "left_out" how many there were.
    """
    wanted = [s for s in samples if s.has_ground_truth and s.id in folder.entries]
    unusable, labels = {} if unusable is None else unusable, {}
    for sample in wanted:
        try:
            labels[sample.id] = sample.ground_truth_labels
        except UserError as error:
            unusable[sample.id] = str(error)
    known = [s for s in wanted if s.id in labels]
    if not known:
        return None
    count = len(vocabulary.classes)
    positive = to_indicator([labels[s.id] for s in known], count)
    tags = to_indicator([read_tags(folder, s) for s in known], count)
    ids = [s.id for s in known]
    scores = read_scores(folder, ids)
    variants = {}
    for name in VARIANTS:
        found = read_scores(folder, ids, name)
        if found is not None:
            variants[name] = {"map": tagging_metrics(found, positive).map}
    levels = []
    for names in vocabulary.levels:
        coarse, groups = _groups(names)
        merged = (merge_classes(values, groups) for values in (scores, positive, tags))
        levels.append(_tagging_figures(tagging_metrics(*merged), coarse))
    return {
        "images": len(known),
        "left_out": len(wanted) - len(known),
        **_tagging_figures(tagging_metrics(scores, positive, tags), vocabulary.classes),
        "variants": variants,
        **({"levels": levels} if levels else {}),
    }


def evaluate_cams(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    betas: Sequence[float | None],
    unusable: Unusable | None = None,
    float16: bool = False,
) -> dict | None:
    """Measures the argmax of the CAMs and the background, before any CRF.

    With several β of the background each is measured, and the figures are those of the best, which
    the ground truth chooses (as CLIP-ES's published figure of its maps does); they say so.
    ``unusable`` is as for :func:`evaluate_tags`; ``float16`` is the quirk ``float16_argmax``.
    """

    def labels_by_beta(sample: Sample) -> list[np.ndarray]:
        cams = read_cams(folder.path / f"{sample.id}.npz")
        resized = cams.resized(*cams.size).astype(np.float16 if float16 else np.float32)
        return [_best_channel(resized, cams, beta) for beta in betas]

    found = _evaluate(samples, folder, vocabulary, labels_by_beta, unusable)
    if found is None:
        return None
    measured = dict(zip(betas, found))
    best = max(measured, key=lambda beta: measured[beta]["miou"])
    if len(measured) == 1:
        return measured[best]
    return {
        **measured[best],
        "background_beta": best,
        "chosen_by_ground_truth": {str(beta): f["miou"] for beta, f in measured.items()},
    }


def _best_channel(maps: np.ndarray, cams: Cams, beta: float | None) -> np.ndarray:
    """Returns the labels of the best of resized maps and the background, H×W uint8."""
    scores = stack_background(maps, beta)
    # Without a background and without tags there is nothing to choose from.
    channels = scores.argmax(0) if len(scores) else np.zeros(cams.size, int)
    return to_labels(channels, cams.keys, background=beta is not None or not len(scores))


def evaluate_masks(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    unusable: Unusable | None = None,
) -> dict | None:
    """Measures the masks before the confidence filter, and the share that it keeps.

    ``unusable`` is as for :func:`evaluate_tags`.
    """
    unusable = {} if unusable is None else unusable
    kept = {}

    def labels_of(sample: Sample) -> list[np.ndarray]:
        labels = read_labels(folder.path / f"{sample.id}.png")
        kept[sample.id] = (labels != IGNORE).mean()
        unfiltered = folder.path / UNFILTERED / f"{sample.id}.png"
        return [read_labels(unfiltered) if unfiltered.is_file() else labels]

    found = _evaluate(samples, folder, vocabulary, labels_of, unusable)
    if found is None:
        return None
    return {**found[0], "kept": float(np.mean([kept[i] for i in kept if i not in unusable]))}


def evaluate_predictions(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    others: Mapping[str, StageFolder],
    steps: Sequence[str] = (),
    initial_weights: Mapping | None = None,
    unusable: Unusable | None = None,
) -> dict | None:
    """Measures the segmenter's predictions and their variants.

    Args:
        samples: the images of a split.
        folder: the predictions.
        vocabulary: the class names.
        others: predictions of other networks by their names ("ceiling").
        steps: the steps of testing before the last (single scale, several scales).
        initial_weights: what the segmenter started from, to stand beside the figures.
        unusable: as for :func:`evaluate_tags`.
    """
    names = ["{}.png", *(variant_path(step, "{}") for step in steps)]

    def measure(of: StageFolder, names: Sequence[str]) -> list[dict] | None:
        def labels_of(sample: Sample) -> list[np.ndarray]:
            return [read_labels(of.path / name.replace("{}", sample.id)) for name in names]

        return _evaluate(samples, of, vocabulary, labels_of, unusable)

    found = measure(folder, names)
    if found is None:
        return None
    result, *before = found
    variants = {step: {"miou": figures["miou"]} for step, figures in zip(steps, before)}
    for name, other in others.items():
        figures = measure(other, names[:1])
        if figures:
            variants[name] = {"miou": figures[0]["miou"]}
    result["variants"] = variants
    return {**result, "initial_weights": initial_weights} if initial_weights else result


def _evaluate(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    labels_of: Callable[[Sample], list[np.ndarray]],
    unusable: Unusable | None,
) -> list[dict] | None:
    """Measures the alternatives that ``labels_of`` returns for every image, in one pass.

    Returns:
        The figures of each alternative; none without images that have a mask that can be used.
    """
    wanted = [s for s in samples if s.mask is not None and s.id in folder.entries]
    unusable, measured = {} if unusable is None else unusable, 0
    confusions: list[Confusion] = []
    with track(f"evaluate {folder.stage} {folder.split}", len(wanted)) as advance:
        for sample in wanted:
            alternatives = labels_of(sample)
            try:
                truth = sample.mask.read()
                _refuse_misfit(truth, alternatives)
            except UserError as error:
                unusable[sample.id] = str(error)
            else:
                confusions = confusions or [
                    Confusion(len(vocabulary.classes) + 1) for _ in alternatives
                ]
                for confusion, labels in zip(confusions, alternatives):
                    confusion.add(truth, labels)
                measured += 1
            advance()
    counts = {"images": measured, "left_out": len(wanted) - measured}
    return [{**counts, **_by_level(confusion, vocabulary)} for confusion in confusions] or None


def _refuse_misfit(truth: np.ndarray, alternatives: Sequence[np.ndarray]) -> None:
    """Refuses a mask that is not that of its image, H×W both."""
    sizes = [labels.shape for labels in alternatives if labels.shape != truth.shape]
    if sizes:
        (height, width), (rows, columns) = sizes[0], truth.shape
        raise UserError(
            f"its ground-truth mask has {columns}×{rows} pixels and the image {width}×{height}:"
            " replace the mask"
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
    """Returns the different names in order, and which of them each one is."""
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
