"""Steps that read results and compute none, and what every step reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.engine.store import Store


@dataclass(frozen=True)
class Outcome:
    """What a step did for a split.

    Attributes:
        stage: its name.
        split: the split, or "" for a stage that has none.
        images: how many images it covers.
        computed: how many of them were computed now.
        left_out: id → reason, of those that were skipped.
        path: where the result lies.
        reused: how many were taken over from results of other settings.
        note: a sentence without its full stop on what is remarkable about the results, or "".
    """

    stage: str
    split: str
    images: int
    computed: int
    left_out: Mapping[str, str]
    path: Path
    reused: int = 0
    note: str = ""

    @property
    def cached(self) -> int:
        """How many of them had a result already."""
        return self.images - len(self.left_out) - self.computed - self.reused


def allowed_failures(wanted: float | None, images: int) -> float:
    """Returns how many of some images may be skipped before a run counts as failed.

    ``wanted`` is ``runtime.max_failures``: a number, a share below 1, or none for 10 images or 1%,
    whichever is more, but not all.
    """
    if wanted is None:
        return min(max(10, 0.01 * images), max(0, images - 1))
    return wanted * images if 0 < wanted < 1 else wanted


class Review(ABC):
    """A step that reads the results there are: evaluation, report.

    Attributes:
        command: the word for it in ``stage=``.
        files: the names of what it writes, in the output directory.
        round: the round of training that it belongs to.
    """

    command: ClassVar[str]
    files: ClassVar[Sequence[str]] = ()
    round: int

    def refuse_nothing(self, planned: Collection[str]) -> None:
        """Raises a UserError in a dry run of these commands if there is nothing to read."""
        return

    @abstractmethod
    def review(self, store: Store) -> Iterator[Outcome]:
        """Reads results, writes what follows from them, and yields what was written."""
