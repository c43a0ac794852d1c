"""Ground truth without its background, for methods that give every pixel a class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.ground_truth import RelabelledMask
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Dataset, GroundTruthMask, Sample, Splits
from pipeline.files.label_images import IGNORE


@dataclass(frozen=True)
class WithoutBackground(GroundTruthMask):
    """Another mask, whose background is ignored.

    Attributes:
        complete: that mask.
        kept: the file that keeps it, as for :class:`~pipeline.datasets.ground_truth.DerivedMask`.
    """

    complete: GroundTruthMask
    kept: Path

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        return [IGNORE, *self.complete.origin]

    def read(self) -> np.ndarray:
        """Implements the base class."""
        labels = self.complete.read()
        return np.where(labels == 0, np.uint8(IGNORE), labels)

    def file(self) -> Path:
        """Implements the base class."""
        pairs = tuple((label, label) for label in range(1, IGNORE))
        return RelabelledMask(self.kept, self.complete.file(), pairs).file()


def ignore_background(dataset: Dataset[Vocabulary], cache: str) -> Dataset[Vocabulary]:
    """Returns a data set in whose masks the background is ignored; ``cache`` keeps such masks."""
    folder = Path(cache) / "without_background"

    def without(sample: Sample) -> Sample:
        if sample.mask is None:
            return sample
        mask = WithoutBackground(sample.mask, folder / f"{sample.id}.png")
        return replace(sample, mask=mask)

    def read(split: str) -> Sequence[Sample]:
        return [without(sample) for sample in dataset.splits[split]]

    return replace(dataset, splits=Splits({s: partial(read, s) for s in dataset.splits}))
