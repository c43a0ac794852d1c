"""Scores that can be compared: standardised over the classes of an image, and over images.

The first two steps of SPARC (Miller et al., CVPR 2025, arXiv 2502.16911), which apply to the scores
of any tagger. The second one gives every class a threshold of its own without a label.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pipeline.engine.learned import Learned
from pipeline.engine.results import Results
from pipeline.engine.sample import Sample
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint
from pipeline.tags.scores import decode_scores, read_scores
from pipeline.tags.stage import Tags
from pipeline.tags.tagger import STANDARDISED, ScoredTagOptions

_NO_SPREAD = 1e-7  # a standard deviation that is rounding, as a share of the largest value


class Statistics(NamedTuple):
    """Mean and standard deviation of each of n classes over images, float64."""

    mean: np.ndarray
    std: np.ndarray


def over_classes(scores: np.ndarray) -> np.ndarray:
    """Standardises each image's scores over its classes (SPARC, step 1): N×n float64."""
    scores = scores.astype(np.float64)
    return standardise(scores, scores.mean(1, keepdims=True), _spread(scores, 1))


def statistics_of(scores: np.ndarray) -> Statistics:
    """Returns mean and standard deviation (n − 1 in its divisor) of the columns of N×n scores."""
    return Statistics(scores.mean(0), _spread(scores, 0)[0])


def standardise(scores: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Standardises N×n scores (SPARC, step 2, by :class:`Statistics`); without spread to 0."""
    has_spread = std > _NO_SPREAD * np.abs(mean)
    return np.where(has_spread, (scores - mean) / np.where(has_spread, std, 1), 0)


def _spread(scores: np.ndarray, axis: int) -> np.ndarray:
    if scores.shape[axis] < 2:
        return np.zeros_like(scores.mean(axis, keepdims=True))
    return scores.std(axis, ddof=1, keepdims=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStatistics(Learned):
    """The statistics of every class's scores over the images of a split."""

    name = "statistics"
    command = "tags"
    file = "statistics.npz"
    steps: Sequence[str]

    def own_settings(self) -> dict[str, Any]:
        """Returns the steps, and the split."""
        return {"standardise": sorted(self.steps), "fit_split": self.split}

    def learn(self, ids: Sequence[str], results: Results, file: BinaryIO) -> None:
        """Computes the statistics."""
        if len(ids) < 2:
            raise UserError(
                "tags.standardise=[class] compares images, and split"
                f" {self.split} has one: give more, or another tags.fit_split"
            )
        scores = read_scores(results, ids).astype(np.float64)
        found = statistics_of(over_classes(scores) if "image" in self.steps else scores)
        np.savez(file, **found._asdict())


@dataclass(frozen=True, kw_only=True, eq=False)
class StandardisedTags(Tags):
    """The classes whose standardised score exceeds ``tags.z``; the scores stay beside it."""

    options_base = ScoredTagOptions
    reads_images = False
    row = STANDARDISED

    @property
    def thresholds(self) -> Collection[str]:
        """The settings that turn standardised scores into tags."""
        return (*super().thresholds, "z")

    def own_settings(self) -> dict[str, Any]:
        """Returns what follows the scores."""
        return {
            "method": self.options.method.name,
            "classes": list(self.vocabulary.classes),
            "standardise": sorted(self.options.standardise),
            "z": self.options.z,
            **self.corrections.key_facts,
        }

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its scores."""
        scores = folders["raw"].entries[sample.id]["scores"]
        return super().item(sample, folders).reading({"raw.scores": fingerprint(scores)}, scores)

    def load(self, folders: Mapping[str, Path]) -> Statistics | None:
        """Reads the statistics, if images are compared."""
        if "learned" not in folders:
            return None
        with np.load(folders["learned"] / ScoreStatistics.file, allow_pickle=False) as stored:
            return Statistics(**stored)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Standardises scores and chooses tags; no image is looked at."""
        for item, _ in images:
            rows = {name: decode_scores(item.given, name) for name in item.given}
            scores = rows["scores"][None].astype(np.float64)
            if "image" in self.options.standardise:
                scores = over_classes(scores)
            if (statistics := model()) is not None:
                scores = standardise(scores, *statistics)
            rows[self.row] = scores[0].astype(np.float32)
            yield item, {self.name: self.output(item, rows)}

    def choose(self, scores: np.ndarray) -> list[int]:
        """Returns the classes whose standardised scores exceed ``z``."""
        return np.flatnonzero(scores > self.options.z).tolist()
