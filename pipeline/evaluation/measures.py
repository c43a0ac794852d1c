"""Measures tags, CAMs, masks and other labels against the ground truth; None if there is none."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.cams.cams import read_cams
from pipeline.configuration.registry import methods
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.kinds import TAGS
from pipeline.engine.progress import track
from pipeline.engine.results import Results
from pipeline.engine.sample import Sample
from pipeline.errors import UserError
from pipeline.evaluation import metrics
from pipeline.files.fingerprints import fingerprint
from pipeline.files.label_images import BACKGROUND, IGNORE, read_labels
from pipeline.masks.labels import best_labels, read_pseudo_mask, stack_background
from pipeline.segmenter.stage import variant_path
from pipeline.tags.scores import read_scores, read_tags
from pipeline.tags.tagger import STANDARDISED

_MAIN = "main"  # the alternative of an image's labels that is the result itself


@dataclass(frozen=True)
class EvaluationInputs:
    """The results of a stage on a split, and what they are measured with."""

    samples: Sequence[Sample]
    results: Results
    vocabulary: Vocabulary
    unusable: dict[str, str] = field(default_factory=dict)
    """Receives id → why its ground truth cannot be used; figures count these as "left_out"."""


def evaluate_tags(inputs: EvaluationInputs, absent_as_zero: bool = False) -> dict | None:
    """Returns :func:`metrics.tagging_figures` of scores, tags and every variant, all in [0, 1]."""
    results, classes = inputs.results, inputs.vocabulary.classes
    wanted = [s for s in inputs.samples if s.has_ground_truth and s.id in results.entries]
    labels = {}
    for sample in wanted:
        try:
            labels[sample.id] = sample.ground_truth_labels
        except UserError as error:
            inputs.unusable[sample.id] = str(error)
    if not labels:
        return None
    positive = metrics.to_indicator(list(labels.values()), len(classes))
    found = [read_tags(results, s) for s in wanted if s.id in labels]
    tags = metrics.to_indicator(found, len(classes))
    scores = read_scores(results, labels)
    variants, calibration = {}, {}
    # One threshold for the scores of all images, which are not all 0 and 1.
    if results.manifest.get("configuration", {}).get("alpha") == 0 and len(np.unique(scores)) > 2:
        calibration = metrics.calibration_figures(scores, positive, tags, classes)
    further = [name for method in methods(TAGS.group) for name in method.variants]
    for name in (*further, STANDARDISED):
        if (variant_scores := read_scores(results, labels, name)) is not None:
            precisions = metrics.average_precisions(variant_scores, positive)
            variants[name] = {"map": metrics.mean_average_precision(precisions, absent_as_zero)}
            if name == STANDARDISED:
                calibration = metrics.calibration_figures(variant_scores, positive, tags, classes)
    levels = []
    for coarse, groups in _levels(inputs.vocabulary):
        merged = (metrics.merge_classes(values, groups) for values in (scores, positive, tags))
        levels.append(metrics.tagging_figures(*merged, coarse, absent_as_zero))
    return {
        "images": len(labels),
        "left_out": len(wanted) - len(labels),
        **_identify(results, {i: list(indices) for i, indices in labels.items()}),
        **metrics.tagging_figures(scores, positive, tags, classes, absent_as_zero),
        "variants": variants,
        **({"levels": levels} if levels else {}),
        **({"calibration": calibration} if calibration else {}),
    }


def evaluate_cams(inputs: EvaluationInputs, betas: Sequence[float | None]) -> dict | None:
    """Measures the argmax of the CAMs and the background, before any CRF.

    With several β of the background each is measured, and the figures are those of the best, which
    the ground truth chooses (as for the figure that CLIP-ES publishes of its CAMs); they say so.
    """

    def labels_by_beta(sample: Sample) -> dict[float | None, np.ndarray]:
        cams = read_cams(inputs.results.path / f"{sample.id}.npz")
        resized = cams.resized(*cams.size)
        return {beta: best_labels(stack_background(resized, beta), cams)[0] for beta in betas}

    if not (by_beta := _evaluate(inputs, labels_by_beta)):
        return None
    best = max(by_beta, key=lambda beta: by_beta[beta]["miou"] or 0)
    if len(by_beta) == 1:
        return by_beta[best]
    return {
        **by_beta[best],
        "background_beta": best,
        "chosen_by_ground_truth": {str(beta): f["miou"] for beta, f in by_beta.items()},
    }


def evaluate_masks(inputs: EvaluationInputs) -> dict | None:
    """Measures the masks before the confidence filter, and ``kept``, the share that it keeps."""
    kept = {}

    def labels_of(sample: Sample) -> dict[str, np.ndarray]:
        labels, unfiltered = read_pseudo_mask(inputs.results.path, sample.id)
        kept[sample.id] = (labels != IGNORE).mean()
        return {_MAIN: unfiltered}

    if not (measured := _evaluate(inputs, labels_of)):
        return None
    shares = [share for image_id, share in kept.items() if image_id not in inputs.unusable]
    return {**measured[_MAIN], "kept": float(np.mean(shares))}


def evaluate_labels(inputs: EvaluationInputs, variants: Sequence[str] = ()) -> dict | None:
    """Measures label images, such as a segmenter's predictions, and variants of them.

    The ``variants`` are in the same folder, such as those of the steps of testing before the last
    (single scale, several scales); their figures are in ``variants``.
    """

    def labels_of(sample: Sample) -> dict[str, np.ndarray]:
        paths = {_MAIN: f"{sample.id}.png"} | {v: variant_path(v, sample.id) for v in variants}
        return {name: read_labels(inputs.results.path / path) for name, path in paths.items()}

    if not (measured := _evaluate(inputs, labels_of)):
        return None
    result = measured.pop(_MAIN)
    result["variants"] = {
        name: {metric: figures[metric] for metric in ("miou", "miou_union", "miou_images")}
        for name, figures in measured.items()
    }
    return result


def _evaluate(
    inputs: EvaluationInputs, labels_of: Callable[[Sample], Mapping[Hashable, np.ndarray]]
) -> dict[Hashable, dict]:
    """Returns the figures of each alternative that ``labels_of`` returns for every image."""
    results, vocabulary = inputs.results, inputs.vocabulary
    wanted = [s for s in inputs.samples if s.mask is not None and s.id in results.entries]
    measured: dict[str, str] = {}
    names, levels = (BACKGROUND, *vocabulary.classes), [*_levels(vocabulary, BACKGROUND)]
    tallies = defaultdict(lambda: metrics.Segmentation(names, levels))
    with track(f"evaluate {results.name} {results.split}", len(wanted)) as advance:
        for sample in wanted:
            alternatives = labels_of(sample)
            try:
                truth = sample.mask.read()
                for labels in alternatives.values():
                    if truth.shape != labels.shape:
                        (rows, columns), (height, width) = truth.shape, labels.shape
                        raise UserError(
                            f"its ground-truth mask has {columns}×{rows} pixels and the image"
                            f" {width}×{height}: replace the mask"
                        )
            except UserError as error:
                inputs.unusable[sample.id] = str(error)
            else:
                for key, labels in alternatives.items():
                    tallies[key].add(truth, labels)
                measured[sample.id] = fingerprint(truth.shape, truth.tobytes())
            advance()
    counts = {"images": len(measured), "left_out": len(wanted) - len(measured)}
    counts |= _identify(results, measured)
    return {key: {**counts, **tally.figures()} for key, tally in tallies.items()}


def _identify(results: Results, truth: Mapping[str, object]) -> dict[str, str]:
    """Returns what two results share that were measured on the same images.

    That is ids, photographs and ``truth``: id → the ground truth of each image or its fingerprint.
    """
    ids = sorted(truth)
    return {
        "image_set": fingerprint([[i, results.photograph_of(i)] for i in ids]),
        "ground_truth": fingerprint([[i, truth[i]] for i in ids]),
    }


def _levels(vocabulary: Vocabulary, *before: str) -> Iterator[tuple[list[str], list[int]]]:
    """Yields the coarse names of every level, and the index among them of each fine name.

    Fine names are those ``before`` the classes, which stay, and the classes.
    """
    for names in vocabulary.levels:
        coarse = list(dict.fromkeys((*before, *names)))
        yield coarse, [coarse.index(name) for name in (*before, *names)]
