"""The stage ``evaluate``: measures whatever artefacts and ground truth there are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.cams.stage import read_cams
from pipeline.datasets.sample import Sample, read_mask
from pipeline.errors import ImageError
from pipeline.files import write_atomically
from pipeline.masks.labels import stack_background, to_labels
from pipeline.masks.stage import UNFILTERED, read_labels
from pipeline.metrics.segmentation import Confusion
from pipeline.metrics.tagging import TaggingMetrics, tagging_metrics, to_indicator
from pipeline.progress import track
from pipeline.store import StageFolder
from pipeline.tags.stage import read_scores, read_tags
from pipeline.tags.tagclip import VARIANTS
from pipeline.vocabulary import IGNORE, Vocabulary

BACKGROUND = "background"


def evaluate_tags(
    samples: Sequence[Sample], folder: StageFolder, vocabulary: Vocabulary
) -> dict | None:
    """Measures the scores, the tags and every variant; none without labelled images."""
    known = [s for s in samples if s.has_ground_truth and s.id in folder.entries]
    if not known:
        return None
    count = len(vocabulary.classes)
    positive = to_indicator([s.ground_truth_labels for s in known], count)
    tags = to_indicator([read_tags(folder, s) for s in known], count)
    ids = [s.id for s in known]
    measured = tagging_metrics(read_scores(folder, ids), positive, tags)
    variants = {}
    for name in VARIANTS:
        scores = read_scores(folder, ids, name)
        if scores is not None:
            variants[name] = {"map": tagging_metrics(scores, positive).map}
    return {
        "images": len(known),
        "map": measured.map,
        "f1": measured.f1,
        "precision": measured.precision,
        "recall": measured.recall,
        "classes_without_positives": int((measured.positives == 0).sum()),
        "per_class": _per_class(measured, vocabulary),
        "variants": variants,
    }


def evaluate_cams(
    samples: Sequence[Sample], folder: StageFolder, vocabulary: Vocabulary, beta: float
) -> dict | None:
    """Measures the best of the maps and the background, before any CRF."""

    def labels_of(sample: Sample) -> np.ndarray:
        cams = read_cams(folder.path / f"{sample.id}.npz")
        channels = stack_background(cams.resized(*cams.size), beta).argmax(0)
        return to_labels(channels, cams.keys)

    return _evaluate(samples, folder, vocabulary, labels_of)


def evaluate_masks(
    samples: Sequence[Sample], folder: StageFolder, vocabulary: Vocabulary
) -> dict | None:
    """Measures the masks before the confidence filter, and the share that it keeps."""
    kept = []

    def labels_of(sample: Sample) -> np.ndarray:
        labels = read_labels(folder.path / f"{sample.id}.png")
        kept.append((labels != IGNORE).mean())
        unfiltered = folder.path / UNFILTERED / f"{sample.id}.png"
        return read_labels(unfiltered) if unfiltered.is_file() else labels

    result = _evaluate(samples, folder, vocabulary, labels_of)
    return result and {**result, "kept": float(np.mean(kept))}


def evaluate_predictions(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    variants: Mapping[str, StageFolder],
) -> dict | None:
    """Measures the segmenter's predictions and those of its variants ("ceiling")."""

    def measure(of: StageFolder) -> dict | None:
        return _evaluate(samples, of, vocabulary, lambda s: read_labels(of.path / f"{s.id}.png"))

    result = measure(folder)
    if result is None:
        return None
    found = {name: measure(of) for name, of in variants.items()}
    result["variants"] = {name: {"miou": r["miou"]} for name, r in found.items() if r}
    return result


def _evaluate(
    samples: Sequence[Sample],
    folder: StageFolder,
    vocabulary: Vocabulary,
    labels_of: Callable[[Sample], np.ndarray],
) -> dict | None:
    known = [s for s in samples if s.mask is not None and s.id in folder.entries]
    if not known:
        return None
    confusion = Confusion(len(vocabulary.classes) + 1)
    with track(f"evaluate {folder.stage} {folder.split}", len(known)) as advance:
        for sample in known:
            try:
                confusion.add(read_mask(sample.mask), labels_of(sample))
            except ValueError as error:
                raise ImageError(f"{sample.mask} does not fit {sample.image}: {error}") from error
            advance()
    names = (BACKGROUND, *vocabulary.classes)
    return {
        "images": len(known),
        "miou": confusion.miou(),
        "per_class": {
            name: {"iou": None if math.isnan(iou) else float(iou)}
            for name, iou in zip(names, confusion.iou())
        },
    }


def _per_class(measured: TaggingMetrics, vocabulary: Vocabulary) -> dict:
    rows = zip(vocabulary.classes, measured.average_precision, measured.positives)
    return {name: {"ap": float(ap), "positives": int(count)} for name, ap, count in rows}


class MetricsFile:
    """``metrics.json``: the latest figures, and every run's with its configuration."""

    def __init__(self, path: Path):
        """Reads the file, or starts an empty one."""
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        self.latest: dict = content.get("latest", {})
        self.runs: list[dict] = content.get("runs", [])

    def find(self, stage: str, split: str, key: str) -> dict | None:
        """Returns the run of a key, if it was measured."""
        wanted = (stage, split, key)
        return next((r for r in self.runs if (r["stage"], r["split"], r["key"]) == wanted), None)

    def put(self, folder: StageFolder, input_key: str, figures: Mapping) -> None:
        """Records a folder's figures as the latest of its stage and split."""
        key = {"key": folder.key}
        self.latest.setdefault(folder.stage, {})[folder.split] = {**key, **figures}
        run = {
            "stage": folder.stage,
            "split": folder.split,
            **key,
            "input": input_key,
            **figures,
            "configuration": folder.configuration,
        }
        old = self.find(folder.stage, folder.split, folder.key)
        self.runs = [r for r in self.runs if r is not old] + [run]

    def drop_latest(self, folder: StageFolder) -> None:
        """Forgets the latest figures of a stage and split that have no ground truth now."""
        self.latest.get(folder.stage, {}).pop(folder.split, None)

    def save(self) -> None:
        """Writes the file."""
        latest = {stage: splits for stage, splits in self.latest.items() if splits}
        content = {"latest": latest, "runs": self.runs}
        write_atomically(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
