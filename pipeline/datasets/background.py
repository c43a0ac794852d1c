"""Ground truth without its background, for methods that give every pixel a class."""

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

    def read(split: str) -> list[Sample]:
        samples = dataset.splits[split]
        masks = [s.mask and WithoutBackground(folder / f"{s.id}.png", s.mask) for s in samples]
        return [replace(sample, mask=mask) for sample, mask in zip(samples, masks)]

    return replace(dataset, splits=Splits({s: partial(read, s) for s in dataset.splits}))
