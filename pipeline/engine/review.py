"""Steps that read results and compute none, and what every step reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
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


class Review(ABC):
    """A step that reads the results there are: evaluation, report.

    Attributes:
        command: the word for it in ``stage=``.
        round: the round of training that it belongs to.
    """

    command: ClassVar[str]
    round: int

    def refuse_nothing(self, planned: Collection[str]) -> None:
        """Raises a UserError in a dry run of these commands if there is nothing to read."""
        return

    @abstractmethod
    def review(self, store: Store) -> Iterator[Outcome]:
        """Reads results, writes what follows from them, and yields what was written."""
