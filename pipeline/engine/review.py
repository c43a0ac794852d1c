"""A step that reads results, and computes none: evaluation, report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import ClassVar

from pipeline.engine.outcome import Outcome
from pipeline.engine.store import Store


class Review(ABC):
    """A step that reads the results there are.

    Attributes:
        command: the word for it in ``stage=``.
        round: the round of training that it belongs to.
    """

    command: ClassVar[str]
    round: int

    def refuse_nothing(self, planned: Collection[str]) -> None:
        """Raises a UserError where there is nothing to read, in a dry run.

        Args:
            planned: the commands of the stages of the run.
        """
        return

    @abstractmethod
    def review(self, store: Store) -> Iterator[Outcome]:
        """Reads results, writes what follows from them, and yields what was written."""
