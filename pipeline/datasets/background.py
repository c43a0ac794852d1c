"""Ground truth without its background, for methods that give every pixel a class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.ground_truth import DerivedMask
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.engine.sample import Dataset, GroundTruthMask, Sample, Splits
from pipeline.files.label_images import IGNORE


@dataclass(frozen=True)
class WithoutBackground(DerivedMask):
    """Another mask, whose background is ignored.

    Attributes:
        complete: that mask.
    """

    complete: GroundTruthMask

    @property
    def origin(self) -> list[Any]:
        """Implements the base class."""
        return [IGNORE, *self.complete.origin]

    def read(self) -> np.ndarray:
        """Implements the base class."""
        labels = self.complete.read()
        return np.where(labels == 0, np.uint8(IGNORE), labels)


def ignore_background(dataset: Dataset[Vocabulary], cache: str) -> Dataset[Vocabulary]:
    """Returns a data set in whose masks the background is ignored; ``cache`` keeps such masks."""
    folder = Path(cache) / "without_background"

    def without(sample: Sample) -> Sample:
        if sample.mask is None:
            return sample
        return replace(sample, mask=WithoutBackground(folder / f"{sample.id}.png", sample.mask))

    def read(split: str) -> Sequence[Sample]:
        return [without(sample) for sample in dataset.splits[split]]

    return replace(dataset, splits=Splits({s: partial(read, s) for s in dataset.splits}))
