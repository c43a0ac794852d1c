"""What a stage did for a split, and whether too much had to be left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.sample import Sample
from pipeline.engine.store import StageFolder
from pipeline.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """What a stage did for a split.

    Attributes:
        stage: its name.
        split: the split, or "" for a stage that has none.
        images: how many images it covers.
        computed: how many of them were computed now.
        left_out: how many of them cannot be used.
        path: where the result lies.
    """

    stage: str
    split: str
    images: int
    computed: int
    left_out: int
    path: Path

    @property
    def cached(self) -> int:
        """How many of them were found in the cache."""
        return self.images - self.left_out - self.computed


def outcome_of(
    folder: StageFolder,
    samples: list[Sample],
    computed: int,
    rejected: Collection[str] = (),
) -> Outcome:
    """Returns what a stage did for the images of a split.

    Args:
        folder: the stage's folder.
        samples: the images.
        computed: how many of them were computed now.
        rejected: ids of files that cannot be samples.
    """
    left_out = folder.failures.keys() & {*(s.id for s in samples), *rejected}
    images = len(samples) + len(rejected)
    return Outcome(folder.stage, folder.split, images, computed, len(left_out), folder.path)


def check_failures(outcome: Outcome, limit: float | None) -> None:
    """Ends a run in which too many images were left out; all others were done.

    Args:
        outcome: what a stage did.
        limit: ``runtime.max_failures``: a number, a share below 1, or none for the default.

    Raises:
        UserError: more images than that were left out.
    """
    if limit is None:
        allowed = max(10, 0.01 * outcome.images)
    elif 0 < limit < 1:
        allowed = limit * outcome.images
    else:
        allowed = limit
    if outcome.left_out > allowed:
        raise UserError(
            f"{outcome.left_out} of {outcome.images} images of split {outcome.split} were left out"
            f" of {outcome.stage}, more than runtime.max_failures allows:"
            f" {outcome.path / 'failures.jsonl'} says why"
        )
