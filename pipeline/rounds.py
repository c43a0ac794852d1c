"""Rounds of self-training: tags and masks come from the segmenter of the round before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import keys
from pipeline.engine.store import StageFolder
from pipeline.errors import UserError
from pipeline.project import Project
from pipeline.segmenter.stage import is_trained


class NextRound(Project):
    """The round after another: its masks are what that round's segmenter sees.

    Everything else, the data set and the maps of the first round among it, is shared.
    """

    def __init__(self, previous: Project):
        """Begins the round after ``previous``."""
        self.__dict__.update(previous.__dict__)
        for name in ("_tags_configuration", "_masks_configuration"):
            self.__dict__.pop(name, None)  # cached, but for the round before
        self.previous = previous
        self.round = previous.round + 1

    @property
    def first(self) -> Project:
        """The project of the first round."""
        return self.previous.first if isinstance(self.previous, NextRound) else self.previous

    @cached_property
    def _tags_configuration(self) -> dict[str, Any]:
        segmenter = self.previous.segmenter_folder().configuration
        first_tags = self.first._tags_configuration
        return keys.seen_tags_configuration(self.config, self.vocabulary, segmenter, first_tags)

    @cached_property
    def _masks_configuration(self) -> dict[str, Any]:
        segmenter = self.previous.segmenter_folder().configuration
        first_tags = self.first._tags_configuration
        return keys.seen_masks_configuration(self.config, segmenter, first_tags)

    @property
    def _own_masks(self) -> None:
        return None  # they were for the first round

    @property
    def _folders(self) -> dict[str, Callable[[str], StageFolder]]:
        return {"tags": self.tags_folder, "masks": self.masks_folder}

    def trained_before(self) -> Path:
        """Returns the folder of the segmenter of the round before.

        Raises:
            UserError: it is not trained.
        """
        trained = self.previous.segmenter_folder()
        if not is_trained(trained):
            raise UserError(
                f"round {self.round} needs the segmenter of round {self.previous.round}: run"
                f" stage=train first, or rounds={self.round} stage=all"
            )
        return trained.path


def rounds_of(project: Project) -> list[Project]:
    """Returns the project of every round, the first one first.

    Raises:
        UserError: ``rounds`` is no positive number.
    """
    count = project.config["rounds"]
    if not isinstance(count, int) or count < 1:
        raise UserError(f"rounds={count} is no number of rounds: give 1 or more")
    rounds = [project]
    while len(rounds) < count:
        rounds.append(NextRound(rounds[-1]))
    return rounds
