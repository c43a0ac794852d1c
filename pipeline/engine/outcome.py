"""What a stage did for a split, and whether too many images were skipped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """What a stage did for a split.

    Attributes:
        stage: its name.
        split: the split, or "" for a stage that has none.
        images: how many images it covers.
        computed: how many of them were computed now.
        left_out: how many of them were skipped.
        path: where the result lies.
        reused: how many were taken over from results of other settings.
    """

    stage: str
    split: str
    images: int
    computed: int
    left_out: int
    path: Path
    reused: int = 0

    @property
    def cached(self) -> int:
        """How many of them had a result already."""
        return self.images - self.left_out - self.computed - self.reused


def check_failures(outcome: Outcome, limit: float | None) -> None:
    """Ends a run in which too many images were skipped; all others were processed.

    Args:
        outcome: what a stage did.
        limit: ``runtime.max_failures``: a number, a share below 1, or none for the default.

    Raises:
        UserError: more images than that were skipped.
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
