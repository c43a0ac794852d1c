"""Images that are looked at together, where a method mixes them up: parts of a split's list."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.engine.sample import Images, Sample
from pipeline.files.fingerprints import fingerprint, fingerprint_image


@dataclass(frozen=True)
class Together:
    """The list of a split, cut into batches whose last one may be smaller.

    Attributes:
        images: the images of the run.
        split: the split.
        size: images of a batch.
    """

    images: Images
    split: str
    size: int

    def of(self, sample: Sample) -> tuple[tuple[Sample, ...], str]:
        """Returns the batch of an image, without ground truth, and the batch's fingerprint.

        A file that cannot be read is in its batch's fingerprint by its name alone.
        """
        return self._batches[sample.id]

    @cached_property
    def _batches(self) -> dict[str, tuple[tuple[Sample, ...], str]]:
        samples = [replace(s, mask=None, labels=None) for s in self.images.of(self.split)]
        found = {}
        for start in range(0, len(samples), self.size):
            batch = tuple(samples[start : start + self.size])
            found |= dict.fromkeys((s.id for s in batch), (batch, _fingerprint(batch)))
        return found


def _fingerprint(batch: Sequence[Sample]) -> str:
    contents = {}
    for sample in batch:
        with suppress(OSError, ValueError):
            contents[sample.id] = fingerprint_image(sample.image)
    return fingerprint([[sample.id, contents.get(sample.id, "")] for sample in batch])
